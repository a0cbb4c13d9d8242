"""Every way a request can end badly, and the one table that gives it an HTTP status and an OpenAI type.

Refused                  what a handler raises; carries a Code, words, and when to try again
QueueUnavailable         services.store: Redis did not answer; becomes Code.QUEUE_UNAVAILABLE
ReplyError               what ends a chat that was queued; `from_reply` makes it Refused

The code is the error's `code` in JSON and the metric's label. Before a stream starts an error has a status of its
own; after that it is a `data: {"error": ...}` event in the stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import orjson

from services.contracts.decisions import Reason
from services.contracts.replies import Finish, ReplyEnd, ReplyError

OUTCOME_HEADER = b"x-bunkhouse-outcome"  # from an inner application to `Call.forward`, which takes it off
RETRY_AFTER_S_MAX = 60.0  # openai-python ignores anything above 120


class Code(StrEnum):
    """OpenAI's code where it has one. The scheduler's reasons keep their names."""

    INVALID_JSON = "invalid_json"
    INVALID_VALUE = "invalid_value"
    MISSING_PARAMETER = "missing_required_parameter"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH = "context_length_exceeded"
    CONTENT_TYPE = "unsupported_media_type"
    INVALID_API_KEY = "invalid_api_key"
    ROLE_TOO_LOW = "role_too_low"
    MODEL_NOT_FOUND = "model_not_found"
    CHAT_NOT_FOUND = "chat_not_found"
    NOT_FOUND = "not_found"
    METHOD = "method_not_allowed"
    READ_TIMEOUT = "request_timeout"
    BODY_TOO_LARGE = "request_too_large"
    IDEMPOTENCY_KEY = "idempotency_key_reused"
    RATE_LIMIT = "rate_limit_exceeded"
    QUOTA = "insufficient_quota"
    TENANT_QUEUE_FULL = "tenant_queue_full"
    DRAINING = "draining"
    HANDED_OVER = "handed_over"
    QUEUE_UNAVAILABLE = "queue_unavailable"
    NO_NEWS = "no_news"
    KNOWLEDGE_NOT_READY = "knowledge_not_ready"
    CANCELLED = "cancelled"
    ENGINE_REJECTED = "engine_rejected"
    ENGINE_BUSY = "engine_busy"
    ENGINE_FAILED = "engine_failed"
    INTERNAL = "internal_error"
    # the scheduler's reasons
    KV_MEMORY = Reason.KV_MEMORY.value
    BANDWIDTH = Reason.BANDWIDTH.value
    FIRST_TOKEN = Reason.FIRST_TOKEN.value
    CHATS_MAX = Reason.CHATS_MAX.value
    TENANT_LIMIT = Reason.TENANT_LIMIT.value
    TELEMETRY_STALE = Reason.TELEMETRY_STALE.value
    MODEL_DOWN = Reason.MODEL_DOWN.value
    MODEL_ASLEEP = Reason.MODEL_ASLEEP.value
    NEVER_FITS = Reason.NEVER_FITS.value
    KV_BITS = "kv_bits"
    DEADLINE = Reason.DEADLINE.value
    QUEUE_FULL = Reason.QUEUE_FULL.value


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """How a code looks from outside. `retry_after_s`: said where nobody knows better; None: no such header."""

    status: int
    type: str
    retry_after_s: float | None = None


_INVALID, _LIMIT, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"

OUTCOMES: dict[Code, OutcomeRow] = {
    Code.INVALID_JSON: OutcomeRow(400, _INVALID),
    Code.INVALID_VALUE: OutcomeRow(400, _INVALID),
    Code.MISSING_PARAMETER: OutcomeRow(400, _INVALID),
    Code.UNKNOWN_PARAMETER: OutcomeRow(400, _INVALID),
    Code.UNSUPPORTED_PARAMETER: OutcomeRow(400, _INVALID),
    Code.CONTEXT_LENGTH: OutcomeRow(400, _INVALID),
    Code.CONTENT_TYPE: OutcomeRow(415, _INVALID),
    Code.INVALID_API_KEY: OutcomeRow(401, "authentication_error"),
    Code.ROLE_TOO_LOW: OutcomeRow(403, "permission_error"),
    Code.MODEL_NOT_FOUND: OutcomeRow(404, _INVALID),
    Code.CHAT_NOT_FOUND: OutcomeRow(404, _INVALID),
    Code.NOT_FOUND: OutcomeRow(404, _INVALID),
    Code.METHOD: OutcomeRow(405, _INVALID),
    Code.READ_TIMEOUT: OutcomeRow(408, _INVALID),
    Code.BODY_TOO_LARGE: OutcomeRow(413, _INVALID),
    Code.IDEMPOTENCY_KEY: OutcomeRow(422, _INVALID),
    Code.RATE_LIMIT: OutcomeRow(429, _LIMIT),
    Code.QUOTA: OutcomeRow(429, "insufficient_quota"),
    Code.TENANT_QUEUE_FULL: OutcomeRow(429, _LIMIT, 2.0),
    Code.TENANT_LIMIT: OutcomeRow(429, _LIMIT, 2.0),
    Code.QUEUE_FULL: OutcomeRow(429, _LIMIT, 2.0),
    Code.DRAINING: OutcomeRow(503, _SERVER, 1.0),
    Code.HANDED_OVER: OutcomeRow(503, _SERVER, 1.0),
    Code.QUEUE_UNAVAILABLE: OutcomeRow(503, _SERVER, 1.0),
    Code.KNOWLEDGE_NOT_READY: OutcomeRow(503, _SERVER, 2.0),
    Code.NO_NEWS: OutcomeRow(504, _SERVER, 1.0),
    Code.CANCELLED: OutcomeRow(409, _INVALID),
    Code.ENGINE_REJECTED: OutcomeRow(400, _INVALID),
    Code.ENGINE_BUSY: OutcomeRow(503, _SERVER, 1.0),
    Code.ENGINE_FAILED: OutcomeRow(502, _SERVER, 1.0),
    Code.INTERNAL: OutcomeRow(500, _SERVER),
    Code.KV_MEMORY: OutcomeRow(503, _SERVER, 2.0),
    Code.BANDWIDTH: OutcomeRow(503, _SERVER, 2.0),
    Code.FIRST_TOKEN: OutcomeRow(503, _SERVER, 2.0),
    Code.CHATS_MAX: OutcomeRow(503, _SERVER, 2.0),
    Code.TELEMETRY_STALE: OutcomeRow(503, _SERVER, 2.0),
    Code.MODEL_DOWN: OutcomeRow(503, _SERVER, 5.0),
    Code.MODEL_ASLEEP: OutcomeRow(503, _SERVER, 5.0),
    Code.NEVER_FITS: OutcomeRow(400, _INVALID),
    Code.KV_BITS: OutcomeRow(503, _SERVER, 5.0),
    Code.DEADLINE: OutcomeRow(503, _SERVER, 2.0),
}


class Refused(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        counted_as: Code | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.extra_headers = headers
        self.counted_as = counted_as or code  # in logs and metrics, where a visitor reads a vaguer code

    @property
    def row(self) -> OutcomeRow:
        return OUTCOMES[self.code]

    def body(self) -> bytes:
        """`{"error": {message, type, param, code}}`"""
        error = {"message": self.message, "type": self.row.type, "param": self.param, "code": self.code.value}
        return orjson.dumps({"error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Retry-After in whole seconds and in milliseconds, where trying again can help; says no where it cannot."""
        headers = list(self.extra_headers)
        wait_s = self.retry_after_s if self.retry_after_s is not None else self.row.retry_after_s
        if wait_s is not None:
            wait_s = min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
            headers.append((b"retry-after-ms", b"%d" % math.ceil(wait_s * 1000)))
        elif self.row.status in (408, 409, 429):
            headers.append((b"x-should-retry", b"false"))
        return headers


def from_reply(error: ReplyError) -> Refused:
    """A queued chat's bad end. A code that this table does not know is the engine's fault, and says so."""
    try:
        code = Code(error.code)
    except ValueError:
        return Refused(Code.ENGINE_FAILED, f"{error.message} ({error.code})", retry_after_s=error.retry_after_s)
    return Refused(code, error.message, retry_after_s=error.retry_after_s)


def raise_for_end(end: ReplyEnd) -> ReplyEnd:
    """The end of a reply, if it is a good one. Raises Refused."""
    if end.error is not None:
        raise from_reply(end.error)
    if end.finish is Finish.CANCELLED:
        raise Refused(Code.CANCELLED, "This chat was cancelled.")
    if end.finish is Finish.ERROR:
        raise Refused(Code.ENGINE_FAILED, "The model failed on this chat.")
    return end
