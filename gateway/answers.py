"""The bytes of an answer: server-sent events, and OpenAI's objects in them or whole."""

from __future__ import annotations

import orjson

from services.contracts.chats import ChatUsage, Ticket
from services.contracts.replies import Finish, ReplyEnd

EVENT_STREAM = "text/event-stream; charset=utf-8"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # nginx would hold events back
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
FINISH_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "length"}


def event(data: object, *, name: str = "", entry_id: str = "", retry_ms: int | None = None) -> bytes:
    """One server-sent event with `data` as JSON; bytes stand as they are.

    `entry_id` is what a client that lost its connection sends as `Last-Event-ID`.
    """
    head = b"id: " + entry_id.encode() + b"\n" if entry_id else b""
    if name:
        head += b"event: " + name.encode() + b"\n"
    if retry_ms is not None:
        head += b"retry: %d\n" % retry_ms
    return head + b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


class Chunks:
    """Events of one chat, as OpenAI's clients read them. What does not change between tokens is built once a chat.

    Text and the role carry their entry's id, so `Last-Event-ID` names what a client has read. The tail (finish, usage,
    [DONE]) carries none: a client that loses it asks from its last text on and gets the whole tail again.
    """

    def __init__(self, ticket: Ticket, include_usage: bool) -> None:
        self._base: dict[str, object] = {
            "id": ticket.chat,
            "object": "chat.completion.chunk",
            "created": int(ticket.created_s),
            "model": ticket.bot,
        }
        self._include_usage = include_usage
        self._head = b"\ndata: " + orjson.dumps(self._base)[:-1] + b',"choices":[{"index":0,"delta":{"content":'
        self._foot = b'},"logprobs":null,"finish_reason":null}]' + (b',"usage":null}' if include_usage else b"}")
        self._foot += b"\n\n"

    def role(self, entry_id: str) -> bytes:
        """The first event of an answer."""
        return self._chunk([_choice({"role": "assistant", "content": "", "refusal": None})], entry_id)

    def text(self, entry_id: str, text: str) -> bytes:
        """A piece of the answer."""
        return b"id: " + entry_id.encode() + self._head + orjson.dumps(text) + self._foot

    def tail(self, end: ReplyEnd) -> bytes:
        """Finish, usage if asked for, [DONE]."""
        events = self._chunk([_choice({}, FINISH_REASONS.get(end.finish, "stop"))], bunkhouse=facts(end))
        if self._include_usage and end.usage is not None:
            events += event({**self._base, "choices": [], "usage": usage(end.usage)})
        return events + DONE

    def _chunk(self, choices: list[object], entry_id: str = "", **more: object) -> bytes:
        body = {**self._base, "choices": choices, **more}
        if self._include_usage:
            body["usage"] = None
        return event(body, entry_id=entry_id)


def error_event(body: bytes) -> bytes:
    """An error in the middle of a stream, and the stream's end."""
    return event(body) + DONE


def handed_over(body: bytes) -> bytes:
    """An error that ends this connection and not the chat: no [DONE], and a client that resumes does so soon."""
    return event(body, retry_ms=500)


def completion(ticket: Ticket, text: str, end: ReplyEnd) -> bytes:
    """The whole answer to a request that does not stream."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return orjson.dumps(
        {
            "id": ticket.chat,
            "object": "chat.completion",
            "created": int(ticket.created_s),
            "model": ticket.bot,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": FINISH_REASONS.get(end.finish, "stop"),
                }
            ],
            "usage": usage(end.usage) if end.usage else None,
            "bunkhouse": facts(end),
        }
    )


def usage(used: ChatUsage) -> dict[str, object]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def facts(end: ReplyEnd) -> dict[str, object]:
    """What this host adds to an answer: how it was served."""
    used = end.usage
    return {
        "served_by": end.served_by,
        "kv_bits": int(used.kv_bits) if used else None,
        "queue_ms": round(used.queue_s * 1000, 1) if used else None,
        "first_token_ms": round(used.first_token_s * 1000, 1) if used and used.first_token_s is not None else None,
    }


def _choice(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
