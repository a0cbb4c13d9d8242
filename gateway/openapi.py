"""The chat API's OpenAPI document, at /openapi.json. The admin API has one of its own at /admin/v1/openapi.json.

The request's schema is that of the model that checks it (gateway.request); statuses and codes are those of
gateway.outcomes. Answers are built from bytes on the token path, so their schemas stand here, and tests/security holds
real answers against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from gateway.api.tokenize import TokenizeRequest
from gateway.call import Call
from gateway.outcomes import OUTCOMES, Code
from gateway.request import SESSION, ChatRequest
from gateway.state import Gateway
from services.contracts.decisions import Reason
from services.store.replies import ENTRY_ID

PATH = "/openapi.json"
ABOUT = (
    "OpenAI's chat API for the bots of one host. Parameters that are not described here are ignored, unless they would "
    "change the answer: those are refused by name. Every answer carries "
    "`x-request-id`; refusals that can be tried again carry `retry-after` and `retry-after-ms`."
)

_KEY = (Code.INVALID_API_KEY, Code.QUEUE_UNAVAILABLE)
_BAD_CHAT = (
    *(Code.INVALID_JSON, Code.INVALID_VALUE, Code.MISSING_PARAMETER, Code.UNKNOWN_PARAMETER),
    *(Code.UNSUPPORTED_PARAMETER, Code.CONTEXT_LENGTH, Code.CONTENT_TYPE, Code.MODEL_NOT_FOUND, Code.MODEL_DOWN),
    *(Code.READ_TIMEOUT, Code.BODY_TOO_LARGE, Code.DRAINING),
)
# What a chat is never refused with.
_ELSEWHERE = frozenset({Code.ROLE_TOO_LOW, Code.CHAT_NOT_FOUND, Code.NOT_FOUND, Code.METHOD})
_AFTER_THE_QUEUE = (
    *(Code(reason.value) for reason in Reason if reason.value in set(Code)),
    Code.CANCELLED,
    Code.ENGINE_REJECTED,
    Code.ENGINE_BUSY,
    Code.ENGINE_FAILED,
    Code.NO_NEWS,
    Code.DRAINING,
    Code.HANDED_OVER,
)


class _Given(BaseModel):
    """A part of an answer: everything is always there unless it has a default."""

    model_config = ConfigDict(extra="forbid")


class Usage(_Given):
    """Tokens of one chat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[Literal["cached_tokens"], int]
    completion_tokens_details: dict[Literal["reasoning_tokens"], int]


class Facts(_Given):
    """How this host served a chat."""

    served_by: str | None
    kv_bits: int | None
    queue_ms: float | None
    first_token_ms: float | None


class CalledFunction(_Given):
    """What a bot calls. `arguments` is JSON, unless the model broke it."""

    name: str
    arguments: str


class ToolCall(_Given):
    """A bot's call of one of the request's tools."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(_Given):
    """The bot's answer. `content` is null where it only calls tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []


class TokenLogprob(_Given):
    """A token and its natural-log probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TokenLogprob):
    """A token of the answer, with those that were likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class Logprobs(_Given):
    """Of the tokens of `content`."""

    content: list[ContentLogprob]
    refusal: None


class Choice(_Given):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Completion(_Given):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None
    bunkhouse: Facts


class Tokens(_Given):
    """What a prompt is made of. `tokens` is null where only the engine knows the ids, and `note` says so."""

    count: int
    max_model_len: int
    tokens: list[int] | None
    token_strs: None
    note: str | None = None


class ReplyFailure(_Given):
    """Why a chat failed."""

    code: str
    message: str


class Chat(_Given):
    """The state of a chat. `completion` is set once it succeeded, `error` once it failed."""

    id: str
    object: Literal["chat"]
    created: int
    model: str
    session: str
    state: Literal["waiting", "ready", "running", "done"]
    attempt: int
    kv_bits: int | None
    queue_ms: float | None
    finish: Literal["stop", "length", "tool_calls", "cancelled", "error"] | None
    completion: Completion | None
    error: ReplyFailure | None = None


class ModelEntry(_Given):
    """A bot of the key's tenant."""

    id: str
    object: Literal["model"]
    created: Literal[0]
    owned_by: str
    context_length: int | None
    kv_bits: list[int]


class ModelList(_Given):
    """All bots of the key's tenant."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(_Given):
    """The process runs."""

    status: Literal["ok"]


class Ready(_Given):
    """Whether chats can be served now, and what is missing."""

    ready: bool
    missing: list[Literal["draining", "redis", "registry", "scheduler", "models"]]
    models: dict[str, str]


class Error(_Given):
    """An error, in words and as a code."""

    message: str
    type: str
    param: str | None
    code: Code


class ErrorAnswer(_Given):
    """Every refusal."""

    error: Error


async def show(_: Gateway, call: Call) -> None:
    """GET /openapi.json."""
    await call.respond(200, _encoded())


@cache
def _encoded() -> bytes:
    return orjson.dumps(document())


def document() -> dict[str, Any]:
    """The document, built anew."""
    answers = (Completion, Tokens, Chat, ModelEntry, ModelList, Health, Ready, ErrorAnswer)
    _, schemas = models_json_schema(
        [(described, "validation") for described in (ChatRequest, TokenizeRequest, *answers)],
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
                "key": {"type": "http", "scheme": "bearer", "description": "A tenant's API key, `bh-...`."}
            },
        },
    }


def _paths() -> dict[str, Any]:
    chat_id = _parameter("id", "path", {"type": "string"}, "The chat's id, `chatcmpl-...`.")
    return {
        "/v1/chat/completions": {"post": _create()},
        "/tokenize": {
            "post": _operation(
                "Count tokens",
                "The tokens of `prompt`, or of `messages` as the bot's model reads them: with the bot's system prompt, "
                "and with what else a chat request has. Nothing is generated, and no limit is charged.",
                _json("Tokens"),
                [*_KEY, *_BAD_CHAT],
                body="TokenizeRequest",
            )
        },
        "/v1/chats/{id}": {
            "get": _operation(
                "Look up a chat",
                "The state of a chat, with its completion once it is done, for as long as its reply is kept.",
                _json("Chat"),
                (*_KEY, Code.CHAT_NOT_FOUND),
                parameters=[chat_id],
            )
        },
        "/v1/chats/{id}/cancel": {
            "post": _operation(
                "Cancel a chat",
                "Ends the chat wherever it is, whoever reads it. A chat that has ended stays as it is.",
                _json("Chat"),
                (*_KEY, Code.CHAT_NOT_FOUND),
                parameters=[chat_id],
            )
        },
        "/v1/chats/{id}/stream": {
            "get": _operation(
                "Resume a stream",
                "The reply after the event `Last-Event-ID`, or from its beginning.",
                _EVENTS,
                (*_KEY, Code.CHAT_NOT_FOUND, Code.INVALID_VALUE, *_AFTER_THE_QUEUE),
                parameters=[
                    chat_id,
                    _parameter("Last-Event-ID", "header", _EVENT_ID, "The last event that was read."),
                    _parameter("last_event_id", "query", _EVENT_ID, "The same, for clients that cannot set headers."),
                    _parameter("include_usage", "query", {"enum": ["0", "1", "false", "true"]}, "Ends with usage."),
                ],
            )
        },
        "/v1/models": {"get": _operation("List bots", "What this key may name as `model`.", _json("ModelList"), _KEY)},
        "/v1/models/{id}": {
            "get": _operation(
                "Look up a bot",
                "By `tenant/bot` or `bot`.",
                _json("Model"),
                (*_KEY, Code.MODEL_NOT_FOUND, Code.NOT_FOUND),
                parameters=[_parameter("id", "path", {"type": "string"}, "The slash need not be escaped.")],
            )
        },
        "/health": {"get": _open("Health", "200 as long as the process runs.", _json("Health"))},
        "/ready": {
            "get": _open(
                "Readiness",
                "200 when Redis answers, a scheduler leads and a model serves.",
                _json("Ready"),
                {"503": {"description": "Something is missing.", **_json("Ready")}},
            )
        },
        "/metrics": {
            "get": _open(
                "Metrics",
                "Prometheus's text format. From other machines with the host's metrics key.",
                _content("text/plain", {"type": "string"}),
                _refusals([Code.INVALID_API_KEY]),
            )
        },
        PATH: {"get": _open("This document", "OpenAPI 3.1.", _content("application/json", {"type": "object"}))},
    }


def _create() -> dict[str, Any]:
    return _operation(
        "Ask a bot",
        "Waits until the scheduler admits the chat, then answers with one object, or with `stream: true` as events. "
        "Send one of `max_tokens` and `max_completion_tokens`; `stream_options` needs `stream: true`; the messages "
        "must contain text. `metadata.task` is one of the host's tasks, `metadata.session` names the conversation.",
        {"content": {**_json("Completion")["content"], **_EVENTS["content"]}},
        [code for code in Code if code not in _ELSEWHERE],
        parameters=[
            _parameter(
                "Idempotency-Key",
                "header",
                {"type": "string", "minLength": 1, "maxLength": 255},
                "The same key and request join the chat that the key was first used for, unless that failed. With "
                "another request it is refused.",
            ),
            _parameter(
                "X-Bunkhouse-Resume",
                "header",
                {"enum": ["0", "1", "false", "true"]},
                "`1`: the client resumes a broken stream, so the chat outlives its connection for a while. Without it, "
                "and without an Idempotency-Key, a chat ends when its client leaves.",
            ),
            _parameter("X-Bunkhouse-Session", "header", _SESSION, "The conversation that this chat belongs to."),
            _parameter("X-OpenWebUI-Chat-Id", "header", _SESSION, "The same, as Open WebUI sends it."),
        ],
        body="ChatRequest",
    )


def _operation(
    summary: str,
    description: str,
    answer: Mapping[str, Any],
    codes: Iterable[Code],
    *,
    parameters: Iterable[Mapping[str, Any]] = (),
    body: str | None = None,
) -> dict[str, Any]:
    """An operation that takes a key."""
    return {
        **({"requestBody": {"required": True, **_json(body)}} if body else {}),
        "summary": summary,
        "description": description,
        "parameters": list(parameters),
        "responses": {"200": {"description": "Done.", **answer}, **_refusals([*codes, Code.INTERNAL])},
    }


def _open(
    summary: str, description: str, answer: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An operation that takes no key."""
    return {
        "summary": summary,
        "description": description,
        "security": [],
        "responses": {"200": {"description": "Done.", **answer}, **(more or {})},
    }


def _refusals(codes: Iterable[Code]) -> dict[str, Any]:
    """A response for each status, with the codes that have it."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(OUTCOMES[code].status, []).append(f"`{code}`")
    return {
        str(status): {"description": ", ".join(sorted(set(names))), **_json("ErrorAnswer")}
        for status, names in sorted(by_status.items())
    }


def _json(schema: str) -> dict[str, Any]:
    return _content("application/json", {"$ref": f"#/components/schemas/{schema}"})


def _content(media_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}


def _parameter(name: str, place: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}


_EVENTS = _content(
    "text/event-stream",
    {
        "type": "object",
        "description": "One event. `data` is OpenAI's `chat.completion.chunk` object, `[DONE]` last. Text carries "
        "an `id` to resume from where the client sent Idempotency-Key, Last-Event-ID or X-Bunkhouse-Resume. An error "
        "after the start is an event with `error`, as in ErrorAnswer.",
        "properties": {"data": {"type": "string"}, "id": {"type": "string"}},
    },
)
_EVENT_ID = {"type": "string", "pattern": f"^{ENTRY_ID.pattern}$"}
_SESSION = {"type": "string", "pattern": f"^{SESSION.pattern}$"}
