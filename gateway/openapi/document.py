"""The chat API's OpenAPI document, at /openapi.json. The admin API has one of its own at /admin/v1/openapi.json.

The request's schema is that of the model that checks it (gateway.request); statuses and codes are those of
gateway.outcomes. The schemas of answers stand beside this document, and tests/security holds real answers against them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.call import Call
from gateway.openapi import other_apis
from gateway.openapi.answers import Chat, Completion, ErrorAnswer, Health, ModelEntry, ModelList, Ready
from gateway.openapi.operations import (
    AFTER_THE_QUEUE,
    KEY,
    asking,
    content,
    json_of,
    keyless,
    operation,
    parameter,
    refusals,
)
from gateway.outcomes import Code
from gateway.request import ChatRequest
from gateway.state import Gateway
from services.store.replies import ENTRY_ID

PATH = "/openapi.json"
ABOUT = (
    "OpenAI's chat API for the bots of one host, and other APIs over it. Parameters that are not described here are "
    "ignored, unless they would change the answer: those are refused by name. Every answer carries `x-request-id`; "
    "refusals that can be tried again carry `retry-after` and `retry-after-ms`."
)


EVENTS_ABOUT = (
    "One event. `data` is OpenAI's `chat.completion.chunk` object, `[DONE]` last. Text carries an `id` to resume from "
    "where the client sent Idempotency-Key, Last-Event-ID or X-Bunkhouse-Resume. An error after the start is an event "
    "with `error`, as in ErrorAnswer."
)
_EVENT_ID = {"type": "string", "pattern": f"^{ENTRY_ID.pattern}$"}


async def show(_: Gateway, call: Call) -> None:
    """GET /openapi.json."""
    await call.respond(200, _encoded())


@cache
def _encoded() -> bytes:
    return orjson.dumps(document())


def document() -> dict[str, Any]:
    """The document, built anew."""
    models: list[type[BaseModel]] = [ChatRequest, Completion, Chat, ModelEntry, ModelList, Health, Ready, ErrorAnswer]
    _, schemas = models_json_schema(
        [(described, "validation") for described in [*models, *other_apis.SCHEMAS]],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bunkhouse chat API", "version": "1", "description": ABOUT},
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A tenant's API key, `bh-...`. As `x-api-key` it works too.",
                }
            },
        },
    }


def _paths() -> dict[str, Any]:
    chat_id = parameter("id", "path", {"type": "string"}, "The chat's id, `chatcmpl-...`.")
    return {
        "/v1/chat/completions": {
            "post": asking(
                "Ask a bot",
                "Waits until the scheduler admits the chat, then answers with one object, or with `stream: true` as "
                "events. Send one of `max_tokens` and `max_completion_tokens`; `stream_options` needs `stream: true`; "
                "the messages must contain text. `metadata.task` is one of the host's tasks, `metadata.session` names "
                "the conversation.",
                body="ChatRequest",
                answer="Completion",
                events=EVENTS_ABOUT,
            )
        },
        **other_apis.PATHS,
        "/v1/chats/{id}": {
            "get": operation(
                "Look up a chat",
                "The state of a chat, with its completion once it is done, for as long as its reply is kept.",
                json_of("Chat"),
                (*KEY, Code.CHAT_NOT_FOUND),
                parameters=[chat_id],
            )
        },
        "/v1/chats/{id}/cancel": {
            "post": operation(
                "Cancel a chat",
                "Ends the chat wherever it is, whoever reads it. A chat that has ended stays as it is.",
                json_of("Chat"),
                (*KEY, Code.CHAT_NOT_FOUND),
                parameters=[chat_id],
            )
        },
        "/v1/chats/{id}/stream": {
            "get": operation(
                "Resume a stream",
                "The reply after the event `Last-Event-ID`, or from its beginning.",
                content("text/event-stream", {"type": "object", "description": EVENTS_ABOUT}),
                (*KEY, Code.CHAT_NOT_FOUND, Code.INVALID_VALUE, *AFTER_THE_QUEUE),
                parameters=[
                    chat_id,
                    parameter("Last-Event-ID", "header", _EVENT_ID, "The last event that was read."),
                    parameter("last_event_id", "query", _EVENT_ID, "The same, for clients that cannot set headers."),
                    parameter("include_usage", "query", {"enum": ["0", "1", "false", "true"]}, "Ends with usage."),
                ],
            )
        },
        "/v1/models": {"get": operation("List bots", "What this key may name as `model`.", json_of("ModelList"), KEY)},
        "/v1/models/{id}": {
            "get": operation(
                "Look up a bot",
                "By `tenant/bot` or `bot`.",
                json_of("ModelEntry"),
                (*KEY, Code.MODEL_NOT_FOUND, Code.NOT_FOUND),
                parameters=[parameter("id", "path", {"type": "string"}, "The slash need not be escaped.")],
            )
        },
        "/health": {"get": keyless("Health", "200 as long as the process runs.", json_of("Health"))},
        "/ready": {
            "get": keyless(
                "Readiness",
                "200 when Redis answers, a scheduler leads, a model serves and bots have their knowledge.",
                json_of("Ready"),
                {"503": {"description": "Something is missing.", **json_of("Ready")}},
            )
        },
        "/metrics": {
            "get": keyless(
                "Metrics",
                "Prometheus's text format. From other machines with the host's metrics key.",
                content("text/plain", {"type": "string"}),
                refusals([Code.INVALID_API_KEY]),
            )
        },
        PATH: {"get": keyless("This document", "OpenAPI 3.1.", content("application/json", {"type": "object"}))},
    }
