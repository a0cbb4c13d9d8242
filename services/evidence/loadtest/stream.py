"""One answer as it streams in: times, text, counts, and the check that nothing was lost or doubled.

The check, for every stream:

- event ids that are whole numbers must rise by one: a jump is lost events, a repeat or a step back doubled ones;
- ids such as 1-17 (Bunkhouse: attempt and place) must rise from text to text; a jump is allowed, because a host that
  falls behind joins pieces;
- where a tokenizer is given, a text that is clearly shorter than `usage.completion_tokens` has lost some;
- more pieces of text than `usage.completion_tokens` are doubled tokens (a piece may hold several: fewer are
  not lost ones);
- a finish reason, then `[DONE]`, and nothing after it; otherwise the stream was cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from services.contracts.decisions import Reason
from services.http_stream.sse import SseEvent, SseParser

from .record import ChatRecord, Result

# Errors before the first word that mean "no room", once a stream has begun and a status can say so no more.
NO_ROOM = frozenset(set(Reason) - {Reason.ROOM, Reason.NEVER_FITS}) | {
    "tenant_queue_full",
    "engine_busy",
    "rate_limit_exceeded",
    "overloaded_error",
}

CountTokens = Callable[[str], int]


class ChatStream:
    """The sink for one chat's body. Fill a record from it with `close`."""

    def __init__(self, record: ChatRecord, start_s: float, cut_after_pieces: int | None = None) -> None:
        self.record = record
        self.error: str | None = None
        self._start_s = start_s  # the clock's reading when the run began
        self._cut_after = cut_after_pieces
        self._parser = SseParser()
        self._text: list[str] = []
        self._last_s = 0.0
        self._last_id: int | None = None
        self._last_place: tuple[int, int] = (-1, -1)
        self._finish: str | None = None
        self._done = False

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    def feed(self, piece: bytes, at: float) -> bool:
        """Take bytes that came at clock reading `at`. False: this user goes away now."""
        for event in self._parser.feed(piece):
            self._event(event, at)
            if self._cut_after is not None and self.record.pieces >= self._cut_after:
                return False
        return True

    def close(self, cut: bool, count_tokens: CountTokens | None = None) -> None:
        """Judge the stream after its end and set the record's result."""
        record = self.record
        if cut:
            record.result = Result.ABANDONED
            return
        if self.error is not None:
            turned_away = record.first_s is None and self.error.rpartition(" ")[2] in NO_ROOM
            record.result = Result.REFUSED if turned_away else Result.FAILED
            record.reason = self.error
            return
        if self._finish is None or not self._done or self._parser.unfinished:
            record.faults.append("cut off before its end")
        tokens = record.completion_tokens
        if tokens is not None and not record.doubled and record.pieces > tokens + 1:
            # one piece over is allowed: text held back for a stop sequence is flushed at the end
            record.doubled = record.pieces - tokens
            record.faults.append(f"{record.pieces} pieces, but the server counted {tokens} tokens")
        if tokens is not None and count_tokens is not None and not record.lost:
            self._compare_text(tokens, count_tokens(self.text))
        record.result = Result.BROKEN if record.faults else Result.OK
        record.reason = record.faults[0] if record.faults else ""

    def _compare_text(self, reported: int, in_text: int) -> None:
        """The end-of-turn token has no text, and a model may spell a word with more tokens than it needs."""
        missing = reported - in_text
        if missing > 2 + reported // 8:
            self.record.lost = missing
            self.record.faults.append(f"the server counted {reported} tokens, but the text has {in_text}")

    def _event(self, event: SseEvent, at: float) -> None:
        if self._done:
            self._fault_once("events after [DONE]")
            return
        if event.id is not None:
            self._check_number(event.id)
        if event.data == b"[DONE]":
            self._done = True
            return
        try:
            value = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            self._fault_once("an event that is not JSON")
            return
        if not isinstance(value, dict):
            self._fault_once("an event that is not a JSON object")
            return
        if "error" in value:
            self.error = error_label(200, value)
            return
        self._chunk(value, event.id, at)

    def _chunk(self, value: dict[str, Any], identity: str | None, at: float) -> None:
        if isinstance(facts := value.get("bunkhouse"), dict):
            self._facts(facts)
        if isinstance(usage := value.get("usage"), dict):
            self._usage(usage)
        for choice in value.get("choices") or ():
            delta = choice.get("delta") or {}
            text = delta.get("content") or delta.get("reasoning_content")
            if text:
                self._check_place(identity)
                self._piece(text if delta.get("content") else "", at)
            self._finish = choice.get("finish_reason") or self._finish

    def _piece(self, text: str, at: float) -> None:
        record = self.record
        if record.first_s is None:
            record.first_s = at - self._start_s
        else:
            record.gaps_ms.append(round((at - self._last_s) * 1000, 2))
        self._last_s = at
        record.pieces += 1
        self._text.append(text)

    def _usage(self, usage: dict[str, Any]) -> None:
        self.record.prompt_tokens = usage.get("prompt_tokens")
        self.record.completion_tokens = usage.get("completion_tokens")
        self.record.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")

    def _facts(self, facts: dict[str, Any]) -> None:
        """What Bunkhouse says at the end of an answer; it is surer than the headers, which went out before."""
        record = self.record
        record.kv_bits = facts.get("kv_bits") or record.kv_bits
        record.served_by = facts.get("served_by") or record.served_by
        if (queue_ms := facts.get("queue_ms")) is not None:
            record.queue_s = queue_ms / 1000

    def _check_place(self, identity: str | None) -> None:
        attempt, dash, number = (identity or "").partition("-")
        if not (dash and attempt.isdigit() and number.isdigit()):
            return
        place = int(attempt), int(number)
        if place <= self._last_place:
            self.record.doubled += 1
            self._fault_once("a piece came twice or out of order")
        self._last_place = max(place, self._last_place)

    def _check_number(self, identity: str) -> None:
        if not identity.isascii() or not identity.isdigit():
            return
        number, last = int(identity), self._last_id
        self._last_id = number if last is None else max(number, last)
        if last is None or number == last + 1:
            return
        if number <= last:
            self.record.doubled += 1
            self._fault_once("an event came twice or out of order")
        else:
            self.record.lost += number - last - 1
            self._fault_once(f"events missing after id {last}")

    def _fault_once(self, words: str) -> None:
        if words not in self.record.faults:
            self.record.faults.append(words)


def error_label(status: int, body: Any) -> str:
    """A short, stable name for an OpenAI-style error: status, then its code or type."""
    error = body.get("error") if isinstance(body, dict) else None
    name = (error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    prefix = "in the stream:" if status == 200 else str(status)
    return f"{prefix} {name or 'error'}".strip()


def read_headers(record: ChatRecord, headers: Mapping[str, str]) -> None:
    """Fill in what the record does not know yet from `x-bunkhouse-*` headers: a stream's end is surer than they are."""
    record.overhead_ms = _number(headers, "overhead-ms")
    record.served_by = record.served_by or headers.get("x-bunkhouse-served-by")
    if record.queue_s is None and (queue_ms := _number(headers, "queue-ms")) is not None:
        record.queue_s = queue_ms / 1000
    if record.kv_bits is None and (bits := _number(headers, "kv-bits")) is not None:
        record.kv_bits = int(bits)
    if (size := _number(headers, "kv-bytes")) is not None:
        record.kv_bytes = int(size)


def _number(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return float(headers[f"x-bunkhouse-{name}"])
    except (KeyError, ValueError):
        return None
