"""What travels through Redis beside tickets: payloads, reply entries, events. Encoded as JSON by orjson."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from scheduler.types import KvBits, Task, Ticket, Usage

T = TypeVar("T")
HERE = "bunkhouse"  # who served a chat, unless another provider did

# Whatever a field of this name holds is an enum again after decoding.
_ENUMS: Mapping[str, Any] = {"kv_bits": KvBits, "kv_bits_floor": KvBits, "task": Task}


@dataclass(frozen=True, slots=True)
class Payload:
    """The part of a chat that only its worker reads."""

    prompt: Sequence[int] | str  # token ids, or rendered text where the exact tokenizer is not known
    salt: str
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    adapter: str | None = None
    messages: Sequence[Mapping[str, str]] = ()  # only where the chat may go to another provider


class Finish(StrEnum):
    """How a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ReplyError:
    """Why a chat ended without an answer. `code` is a scheduler Reason or an engine failure."""

    code: str
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """Last entry of a reply."""

    finish: Finish
    usage: Usage | None = None
    error: ReplyError | None = None
    served_by: str = HERE


class ReplyEntry(NamedTuple):
    """One entry of a reply stream. `id` is its place: ATTEMPT-NUMBER, growing. The last three
    come with start."""

    id: str
    kind: Literal["queued", "start", "text", "end"]
    text: str = ""
    tokens: int = 0
    end: ReplyEnd | None = None
    kv_bits: int | None = None
    queue_s: float | None = None
    served_by: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What the scheduler hears. `ticket` with arrive, `usage` with settle (None: it took nothing), `kv_bits` with
    demoted, `ask` with explain: where the answer is to go."""

    kind: Literal["arrive", "cancel", "settle", "demoted", "explain"]
    chat: str
    ticket: Ticket | None = None
    usage: Usage | None = None
    kv_bits: KvBits | None = None
    ask: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
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
    """A dataclass of this module or scheduler.types from JSON. Keys it does not know are dropped, so that an
    older process reads a newer one's records during an upgrade."""
    values = orjson.loads(data) if isinstance(data, (bytes, str)) else data
    names = _names(kind)  # type: ignore[arg-type]
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name in names:
            known[name] = _ENUMS[name](value) if name in _ENUMS and value is not None else value
    return kind(**known)


@cache
def _names(kind: type[Any]) -> frozenset[str]:
    return frozenset(entry.name for entry in fields(kind))


def decode_end(data: bytes | str) -> ReplyEnd:
    """The last entry of a reply."""
    return _end_of(orjson.loads(data))


def _end_of(values: Mapping[str, Any]) -> ReplyEnd:
    usage, error = values.get("usage"), values.get("error")
    return ReplyEnd(
        finish=Finish(values["finish"]),
        usage=decode(Usage, usage) if usage else None,
        error=decode(ReplyError, error) if error else None,
        served_by=values.get("served_by", HERE),
    )


def decode_entry(entry_id: bytes, values: Mapping[bytes, bytes]) -> ReplyEntry:
    """An entry as redis-py gives it."""
    place = entry_id.decode()
    text = values.get(b"t")
    if text is not None:
        return ReplyEntry(place, "text", text.decode(), int(values[b"n"]))
    kind = values[b"k"].decode()
    if kind == "end":
        return ReplyEntry(place, "end", end=decode_end(values[b"d"]))
    if kind == "start":
        return ReplyEntry(
            place, "start", kv_bits=int(values[b"b"]), queue_s=float(values[b"q"]), served_by=values[b"s"].decode()
        )
    return ReplyEntry(place, "queued")


def decode_news(place: str, what: str | dict[str, Any], tokens: int = 0) -> ReplyEntry:
    """An entry as a hint shows it: text and tokens, or the start's or the end's own record."""
    if isinstance(what, str):
        return ReplyEntry(place, "text", what, tokens)
    if "finish" in what:
        return ReplyEntry(place, "end", end=_end_of(what))
    return ReplyEntry(place, "start", kv_bits=int(what["b"]), queue_s=float(what["q"]), served_by=what["s"])


def decode_event(values: Mapping[bytes, bytes]) -> Event:
    """An event as redis-py gives it."""
    kind, data = values[b"k"].decode(), values[b"d"]
    if kind == "arrive":
        ticket = decode(Ticket, data)
        return Event("arrive", ticket.chat, ticket=ticket)
    if kind == "settle":
        settled = orjson.loads(data)
        usage = settled.get("usage")
        return Event("settle", settled["chat"], usage=decode(Usage, usage) if usage else None)
    if kind == "demoted":
        lowered = orjson.loads(data)
        return Event("demoted", lowered["chat"], kv_bits=KvBits(lowered["kv_bits"]))
    if kind == "explain":
        asked = orjson.loads(data)
        return Event("explain", asked["chat"], ask=asked["ask"])
    return Event("cancel", data.decode())
