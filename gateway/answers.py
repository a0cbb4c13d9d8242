"""The bytes of an answer: server-sent events, and OpenAI's objects in them or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypedDict

import orjson

from gateway.outcomes import Code, Refused
from services.contracts.chats import ChatUsage, Ticket
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyEntry

EVENT_STREAM = "text/event-stream; charset=utf-8"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # nginx would hold events back
# What keeps an idle stream open: docs/adr/16-what-keeps-a-stream-open.md. An empty line, since some clients fail on a
# comment; a comment where events have ids, since others take an empty line behind an id for an event.
BLANK = b"\n\n"
PING = b": ping\n"
WAITING = b": waiting\n"
DONE = b"data: [DONE]\n\n"
RETRY_MS = 500  # a client whose gateway went away comes back so soon
_CONTENT = ContentKind.CONTENT  # an enum finds its members slowly
FINISH_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "length", Finish.TOOL_CALLS: "tool_calls"}


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


class AnswerFormat(Protocol):
    """How one API writes the answer to one request. Made for one connection, so it may keep count of what it wrote."""

    def start(self, entry_id: str) -> bytes:
        """The first events of a stream, at the entry with this id. Not called where a client resumes behind it."""

    def entry(self, entry: ReplyEntry) -> bytes:
        """The events of a text entry, or of one of several choices that ended; b"" where it shows nothing."""

    def tail(self, end: ReplyEnd) -> bytes:
        """The last events of an answer that ended well."""

    def failed(self, refused: Refused) -> bytes:
        """An error in the middle of a stream, and the stream's end. The chat itself goes on if it was handed over."""

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The body of an answer that is not streamed, from all entries of a reply that ended well."""


class ChatCompletions:
    """OpenAI's chat completions. What does not change between tokens is built once a chat.

    With `ids`, text and the role carry their entry's id, so `Last-Event-ID` names what a client has read. The tail
    (finish, usage, [DONE]) carries none: a client that loses it asks from its last text on and gets the whole tail
    again. `continuous_usage`: every event counts the tokens up to it.
    """

    def __init__(
        self,
        ticket: Ticket,
        *,
        ids: bool = False,
        include_usage: bool = False,
        continuous_usage: bool = False,
        choice: int = 0,
    ) -> None:
        self._ticket = ticket
        self._base: dict[str, object] = {
            "id": ticket.chat,
            "object": "chat.completion.chunk",
            "created": int(ticket.created_s),
            "model": ticket.bot,
        }
        self._ids, self._index = ids, choice
        self._include_usage = include_usage
        self._continuous_usage = include_usage and continuous_usage
        self._tokens = 0  # that were streamed
        self._head = b"data: " + orjson.dumps(self._base)[:-1] + b',"choices":[{"index":%d,"delta":{"content":' % choice
        if ids:
            self._head = b"\n" + self._head
        self._foot = b'},"logprobs":null,"finish_reason":null}]'
        self._foot += b',"usage":null}\n\n' if include_usage else b"}\n\n"

    def start(self, entry_id: str) -> bytes:
        """The role."""
        return self._chunk(self._choice({"role": "assistant", "content": "", "refusal": None}), entry_id)

    def entry(self, entry: ReplyEntry) -> bytes:
        """One event: a client has read all of an entry or nothing."""
        if self._continuous_usage or entry.logprobs or entry.content is not _CONTENT:
            return self._rich(entry)
        if not entry.text:
            return b""
        if self._ids:
            return b"id: " + entry.id.encode() + self._head + orjson.dumps(entry.text) + self._foot
        return self._head + orjson.dumps(entry.text) + self._foot

    def _rich(self, entry: ReplyEntry) -> bytes:
        """An entry that is more than a piece of content."""
        self._tokens += entry.tokens
        choice = self._choice({})
        if entry.content is ContentKind.CONTENT:
            choice["logprobs"] = logprobs([entry])
            if entry.text or entry.logprobs:
                choice["delta"] = {"content": entry.text}
        elif entry.text:
            choice["delta"] = (
                {"reasoning_content": entry.text}
                if entry.content is ContentKind.REASONING
                else {"tool_calls": [{**call, "index": index} for index, call in tool_calls([entry]).items()]}
            )
        return self._chunk(choice, entry.id) if choice["delta"] else b""

    def tail(self, end: ReplyEnd) -> bytes:
        """Finish, usage if asked for, [DONE]."""
        return self.finish(end.finish, bunkhouse=self._facts(end)) + self.close(end)

    def _facts(self, end: ReplyEnd) -> dict[str, object]:
        return {**facts(end), "missed": True} if self._ticket.missed else facts(end)

    def finish(self, finish: Finish, **more: object) -> bytes:
        """Why this choice ended."""
        return self._chunk(self._choice(citations(self._ticket), FINISH_REASONS.get(finish, "stop")), "", **more)

    def close(self, end: ReplyEnd) -> bytes:
        """What comes after the last choice's finish."""
        if not self._include_usage or end.usage is None:
            return DONE
        return event({**self._base, "choices": [], "usage": usage(end.usage)}) + DONE

    def failed(self, refused: Refused) -> bytes:
        """OpenAI's error object. One that ends this connection and not the chat has no [DONE]."""
        if refused.code is Code.HANDED_OVER:
            return event(refused.body(), retry_ms=RETRY_MS)
        return event(refused.body()) + DONE

    def _chunk(self, choice: _ChunkChoice, entry_id: str = "", **more: object) -> bytes:
        body = {**self._base, "choices": [choice], **more}
        if self._continuous_usage:
            prompt = self._ticket.prompt_tokens
            body["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": self._tokens,
                "total_tokens": prompt + self._tokens,
            }
        elif self._include_usage:
            body["usage"] = None
        return event(body, entry_id=entry_id if self._ids else "")

    def _choice(self, delta: dict[str, object], finish: str | None = None) -> _ChunkChoice:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def whole(self, entries: Sequence[ReplyEntry], end: ReplyEnd) -> bytes:
        """The `chat.completion` object."""
        return self.completion([self.whole_choice(entries, end.finish)], end)

    def whole_choice(self, entries: Sequence[ReplyEntry], finish: Finish) -> dict[str, object]:
        """This choice in that object."""
        return {
            "index": self._index,
            "message": message(entries) | citations(self._ticket),
            "logprobs": logprobs(entries),
            "finish_reason": FINISH_REASONS.get(finish, "stop"),
        }

    def completion(self, choices: Sequence[Mapping[str, object]], end: ReplyEnd) -> bytes:
        """The object with these choices."""
        return orjson.dumps(
            {
                **self._base,
                "object": "chat.completion",
                "choices": choices,
                "usage": usage(end.usage) if end.usage else None,
                "bunkhouse": self._facts(end),
            }
        )


class _ChunkChoice(TypedDict):
    index: int
    delta: dict[str, object]
    logprobs: dict[str, object] | None
    finish_reason: str | None


def text_of(entries: Sequence[ReplyEntry], content: ContentKind = ContentKind.CONTENT) -> str:
    """All text of one kind: what is said, unless another is named."""
    return "".join(entry.text for entry in entries if entry.content is content)


class CallFunction(TypedDict, total=False):
    """What is called. `arguments` is JSON text."""

    name: str
    arguments: str


class AnsweredCall(TypedDict, total=False):
    """OpenAI's tool call, or a part of one."""

    id: str
    type: str
    function: CallFunction


def tool_calls(entries: Sequence[ReplyEntry]) -> dict[int, AnsweredCall]:
    """The calls in these entries, or the parts of calls, by their index in the answer."""
    calls: dict[int, AnsweredCall] = {}
    for line in text_of(entries, ContentKind.TOOL_CALL).split("\n")[:-1]:
        part = orjson.loads(line)
        call = calls.setdefault(part["index"], {"function": {"arguments": ""}})
        if "id" in part:
            call["id"], call["type"] = part["id"], "function"
        if "name" in part:
            call["function"]["name"] = part["name"]
        call["function"]["arguments"] += part.get("arguments", "")
    return calls


def message(entries: Sequence[ReplyEntry]) -> dict[str, object]:
    """OpenAI's message, from all entries of a reply."""
    content, calls = text_of(entries), tool_calls(entries)
    found: dict[str, object] = {"role": "assistant", "content": content if content or not calls else None}
    found["refusal"] = None
    if reasoning := text_of(entries, ContentKind.REASONING):
        found["reasoning_content"] = reasoning
    if calls:
        found["tool_calls"] = [calls[index] for index in sorted(calls)]
    return found


def citations(ticket: Ticket) -> dict[str, object]:
    """What a message has beside its text where the bot answered from its knowledge: OpenAI's citations. They are of the
    whole text; `url` is empty for what has none."""
    if not ticket.sources:
        return {}
    cited = [{"title": title, "url": url, "start_index": 0, "end_index": 0} for title, url in ticket.sources]
    return {"annotations": [{"type": "url_citation", "url_citation": each} for each in cited]}


def logprobs(entries: Sequence[ReplyEntry]) -> dict[str, object] | None:
    """OpenAI's logprobs object: of the tokens that are content. None where nobody asked for them."""
    items = [entry.logprobs[1:-1] for entry in entries if entry.logprobs and entry.content is ContentKind.CONTENT]
    return {"content": orjson.Fragment(f"[{','.join(items)}]"), "refusal": None} if items else None


def usage(used: ChatUsage) -> dict[str, object]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
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
