"""The chat API's routes: which handler answers a path, however a client's base URL spells it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from gateway import chats, models, probes
from gateway.api import anthropic, completions, responses, tokenize
from gateway.call import Call
from gateway.openapi import document
from gateway.outcomes import Code, Refused
from gateway.state import Gateway

Handler = Callable[[Gateway, Call], Awaitable[None]]


class Route(NamedTuple):
    """Where GET is the method, HEAD works too. `name` labels metrics and logs."""

    name: str
    method: str
    handler: Handler
    error_body: Callable[[Refused], bytes] = Refused.body


V1 = "/v1"
ROUTES: dict[str, Route] = {
    route.name: route
    for route in (
        Route("/v1/chat/completions", "POST", chats.create),
        Route("/v1/responses", "POST", responses.create),
        Route("/v1/messages", "POST", anthropic.create, anthropic.error_body),
        Route("/v1/messages/count_tokens", "POST", anthropic.count_tokens, anthropic.error_body),
        Route("/v1/completions", "POST", completions.create),
        Route("/tokenize", "POST", tokenize.create),
        Route("/v1/models", "GET", models.index),
        Route("/health", "GET", probes.health),
        Route("/ready", "GET", probes.ready),
        Route("/metrics", "GET", probes.metrics),
        Route(document.PATH, "GET", document.show),
    )
}
MODEL_PREFIX = "/v1/models/"
CHAT_PREFIX = "/v1/chats/"
_OF_A_CHAT = {"": ("GET", chats.show), "/stream": ("GET", chats.resume), "/cancel": ("POST", chats.cancel)}


def find(call: Call) -> Route:
    """The route of a request. Raises Refused."""
    route = ROUTES.get(call.path) or _find(_canonical(call.path))
    if route is None:
        raise Refused(Code.NOT_FOUND, f"{call.method} {call.path} does not exist. {document.PATH} lists what does.")
    call.route, call.error_body = route.name, route.error_body
    if call.method != route.method and (call.method, route.method) != ("HEAD", "GET"):
        allowed = b"GET, HEAD" if route.method == "GET" else route.method.encode()
        raise Refused(
            Code.METHOD, f"{route.name} takes {route.method}, not {call.method}.", headers=((b"allow", allowed),)
        )
    return route


def _find(path: str) -> Route | None:
    if path in ROUTES:
        return ROUTES[path]
    if path.startswith(MODEL_PREFIX):
        return Route(MODEL_PREFIX + "{id}", "GET", partial(models.show, name=path.removeprefix(MODEL_PREFIX)))
    if path.startswith(CHAT_PREFIX):
        chat_id, slash, rest = path.removeprefix(CHAT_PREFIX).partition("/")
        if slash + rest in _OF_A_CHAT:
            method, handler = _OF_A_CHAT[slash + rest]
            return Route(CHAT_PREFIX + "{id}" + slash + rest, method, partial(handler, chat_id=chat_id))
    return None


def _canonical(path: str) -> str:
    """A path as the table spells it. Base URLs come without /v1, with it twice, and with a slash too many."""
    path = "/" + "/".join(part for part in path.split("/") if part)
    if path.startswith("/v1/v1/"):
        path = path.removeprefix(V1)
    other = path.removeprefix(V1) if path.startswith("/v1/") else V1 + path
    return other if path not in ROUTES and (other in ROUTES or other.startswith((MODEL_PREFIX, CHAT_PREFIX))) else path
