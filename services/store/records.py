"""What travels through Redis beside tickets: payloads, reply entries, events. Encoded as JSON by orjson."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, TypeVar

import orjson

from services.contracts.chats import ChatUsage, KvBits, OutputFormat, Payload, Sampling, Task, Ticket, ToolFormat
from services.contracts.devices import Sharing
from services.contracts.replies import HERE, ContentKind, Finish, ReplyEnd, ReplyEntry, ReplyError

T = TypeVar("T")

# Whatever a field of this name holds is an enum again after decoding.
_ENUMS: Mapping[str, Any] = {"kv_bits": KvBits, "kv_bits_floor": KvBits, "task": Task, "sharing": Sharing}

# The first field of a text entry holds its text, and the field's name says what the text is.
TEXT_FIELDS: Mapping[ContentKind, str] = {
    ContentKind.CONTENT: "t",
    ContentKind.REASONING: "r",
    ContentKind.TOOL_CALL: "c",
    ContentKind.PROMPT: "p",
}
RAW, LOGPROBS = b"w", b"l"  # further fields of a text entry, where it has them: the text as the model wrote it
_CONTENT = {field.encode(): kind for kind, field in TEXT_FIELDS.items()}


@dataclass(frozen=True, slots=True)
class SchedulerEvent:
    """What the scheduler hears. `ticket` with arrive, `usage` with settle (None: it took nothing), `kv_bits` with
    demoted, `ask` with explain: where the answer is to go."""

    kind: Literal["arrive", "cancel", "settle", "demoted", "explain"]
    chat: str
    ticket: Ticket | None = None
    usage: ChatUsage | None = None
    kv_bits: KvBits | None = None
    ask: str = ""


@dataclass(frozen=True, slots=True)
class ClaimedChat:
    """An admitted chat in a worker's hands. An attempt above 1 goes on where an earlier one stopped."""

    ticket: Ticket
    payload: Payload
    attempt: int
    kv_bits: KvBits
    queue_s: float
    cancelled: bool
    kv_byte_seconds: float = 0.0  # that earlier attempts held, as far as it was written down


def encode(value: object) -> bytes:
    """A dataclass as JSON."""
    return orjson.dumps(value)


def decode(kind: type[T], data: bytes | str | Mapping[str, Any]) -> T:
    """A contract from JSON. Keys it does not know are dropped, so that an
    older process reads a newer one's records during an upgrade."""
    values = orjson.loads(data) if isinstance(data, (bytes, str)) else data
    names = _names(kind)  # type: ignore[arg-type]
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name in names:
            if name in _ENUMS and value is not None:
                value = _ENUMS[name](value)  # noqa: PLW2901
            known[name] = _frozen(value) if type(value) is list else value
    return kind(**known)


def _frozen(value: Any) -> Any:
    """JSON's arrays as tuples, which is what they were."""
    return tuple(_frozen(item) for item in value) if type(value) is list else value


@cache
def _names(kind: type[Any]) -> frozenset[str]:
    return frozenset(entry.name for entry in fields(kind))


def decode_payload(data: bytes | str) -> Payload:
    """What a worker reads. A payload of before `Sampling` has its fields beside the prompt.

    Upgrade workers before gateways: an older worker does not find the parameters of a newer payload.
    """
    values = orjson.loads(data)
    sampling, output = decode(Sampling, values.get("sampling", values)), values.get("output")
    return decode(
        Payload, {**values, "sampling": sampling, "output": decode_output(output) if output else OutputFormat()}
    )


def decode_output(values: Mapping[str, Any]) -> OutputFormat:
    """What the gateway knows of an answer's format."""
    return decode(OutputFormat, {**values, "tools": ToolFormat(values.get("tools", ToolFormat.NONE))})


def decode_end(data: bytes | str) -> ReplyEnd:
    """The last entry of a reply."""
    return _end_of(orjson.loads(data))


def _end_of(values: Mapping[str, Any]) -> ReplyEnd:
    usage, error = values.get("usage"), values.get("error")
    return ReplyEnd(
        finish=Finish(values["finish"]),
        usage=decode(ChatUsage, usage) if usage else None,
        error=decode(ReplyError, error) if error else None,
        served_by=values.get("served_by", HERE),
        stop_text=values.get("stop_text", ""),
    )


def decode_entry(entry_id: bytes, values: Mapping[bytes, bytes]) -> ReplyEntry:
    """An entry as redis-py gives it."""
    place = entry_id.decode()
    field = next(iter(values))
    if (content := _CONTENT.get(field)) is not None:
        logprobs = values[LOGPROBS].decode() if LOGPROBS in values else ""
        return ReplyEntry(place, "text", values[field].decode(), int(values[b"n"]), content=content, logprobs=logprobs)
    kind = values[b"k"].decode()
    if kind == "end":
        return ReplyEntry(place, "end", end=decode_end(values[b"d"]))
    if kind == "start":
        return ReplyEntry(
            place, "start", kv_bits=int(values[b"b"]), queue_s=float(values[b"q"]), served_by=values[b"s"].decode()
        )
    return ReplyEntry(place, "queued")


def decode_news(
    place: str, what: str | dict[str, Any], tokens: int = 0, field: str = "t", logprobs: str = ""
) -> ReplyEntry:
    """An entry as a hint shows it: text, tokens, text field and logprobs, or the start's or the end's own record."""
    if isinstance(what, str):
        if field == "t" and not logprobs:
            return ReplyEntry(place, "text", what, tokens)
        return ReplyEntry(place, "text", what, tokens, content=_CONTENT[field.encode()], logprobs=logprobs)
    if "finish" in what:
        return ReplyEntry(place, "end", end=_end_of(what))
    return ReplyEntry(place, "start", kv_bits=int(what["b"]), queue_s=float(what["q"]), served_by=what["s"])


def decode_event(values: Mapping[bytes, bytes]) -> SchedulerEvent:
    """An event as redis-py gives it."""
    kind, data = values[b"k"].decode(), values[b"d"]
    if kind == "arrive":
        ticket = decode(Ticket, data)
        return SchedulerEvent("arrive", ticket.chat, ticket=ticket)
    if kind == "settle":
        settled = orjson.loads(data)
        usage = settled.get("usage")
        return SchedulerEvent("settle", settled["chat"], usage=decode(ChatUsage, usage) if usage else None)
    if kind == "demoted":
        lowered = orjson.loads(data)
        return SchedulerEvent("demoted", lowered["chat"], kv_bits=KvBits(lowered["kv_bits"]))
    if kind == "explain":
        asked = orjson.loads(data)
        return SchedulerEvent("explain", asked["chat"], ask=asked["ask"])
    return SchedulerEvent("cancel", data.decode())
