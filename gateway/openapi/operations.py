"""The parts that the document's operations are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.outcomes import OUTCOMES, Code
from gateway.request import SESSION
from services.contracts.decisions import Reason

KEY = (Code.INVALID_API_KEY, Code.QUEUE_UNAVAILABLE)
BAD_CHAT = (
    *(Code.INVALID_JSON, Code.INVALID_VALUE, Code.MISSING_PARAMETER, Code.UNKNOWN_PARAMETER),
    *(Code.UNSUPPORTED_PARAMETER, Code.CONTEXT_LENGTH, Code.CONTENT_TYPE, Code.MODEL_NOT_FOUND, Code.MODEL_DOWN),
    *(Code.READ_TIMEOUT, Code.BODY_TOO_LARGE, Code.DRAINING, Code.KNOWLEDGE_NOT_READY),
)
# What a chat is never refused with.
ELSEWHERE = frozenset({Code.ROLE_TOO_LOW, Code.CHAT_NOT_FOUND, Code.NOT_FOUND, Code.METHOD})
AFTER_THE_QUEUE = (
    *(Code(reason.value) for reason in Reason if reason.value in set(Code)),
    Code.CANCELLED,
    Code.ENGINE_REJECTED,
    Code.ENGINE_BUSY,
    Code.ENGINE_FAILED,
    Code.NO_NEWS,
    Code.DRAINING,
    Code.HANDED_OVER,
)
_SESSION = {"type": "string", "pattern": f"^{SESSION.pattern}$"}


def operation(
    summary: str,
    description: str,
    answer: Mapping[str, Any],
    codes: Iterable[Code],
    *,
    parameters: Iterable[Mapping[str, Any]] = (),
    body: str | None = None,
    error: str = "ErrorAnswer",
) -> dict[str, Any]:
    """An operation that takes a key. `body` and `error` name schemas."""
    return {
        **({"requestBody": {"required": True, **json_of(body)}} if body else {}),
        "summary": summary,
        "description": description,
        "parameters": list(parameters),
        "responses": {"200": {"description": "Done.", **answer}, **refusals([*codes, Code.INTERNAL], error)},
    }


def asking(
    summary: str, description: str, *, body: str, answer: str, events: str, error: str = "ErrorAnswer"
) -> dict[str, Any]:
    """An operation that asks a bot for an answer, whole or, as `events` says, streamed. The others name schemas."""
    stream = {"type": "object", "description": events, "properties": {"data": {"type": "string"}}}
    return operation(
        summary,
        description,
        {"content": {**json_of(answer)["content"], **content("text/event-stream", stream)["content"]}},
        [code for code in Code if code not in ELSEWHERE],
        parameters=[
            parameter(
                "Idempotency-Key",
                "header",
                {"type": "string", "minLength": 1, "maxLength": 255},
                "The same key and request join the chat that the key was first used for, unless that failed. With "
                "another request it is refused.",
            ),
            parameter(
                "X-Bunkhouse-Resume",
                "header",
                {"enum": ["0", "1", "false", "true"]},
                "`1`: the client resumes a broken stream, so the chat outlives its connection for a while. Without it, "
                "and without an Idempotency-Key, a chat ends when its client leaves.",
            ),
            parameter("X-Bunkhouse-Session", "header", _SESSION, "The conversation that this chat belongs to."),
            parameter("X-OpenWebUI-Chat-Id", "header", _SESSION, "The same, as Open WebUI sends it."),
        ],
        body=body,
        error=error,
    )


def keyless(
    summary: str, description: str, answer: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An operation that takes no key."""
    return {
        "summary": summary,
        "description": description,
        "security": [],
        "responses": {"200": {"description": "Done.", **answer}, **(more or {})},
    }


def refusals(codes: Iterable[Code], error: str = "ErrorAnswer") -> dict[str, Any]:
    """A response for each status, with the codes that have it."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(OUTCOMES[code].status, []).append(f"`{code}`")
    return {
        str(status): {"description": ", ".join(sorted(set(names))), **json_of(error)}
        for status, names in sorted(by_status.items())
    }


def json_of(schema: str) -> dict[str, Any]:
    """Content with a schema of this name."""
    return content("application/json", {"$ref": f"#/components/schemas/{schema}"})


def content(media_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Content of one media type."""
    return {"content": {media_type: {"schema": schema}}}


def parameter(name: str, place: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    """A parameter in the `path`, the `query` or a `header`."""
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": description}
