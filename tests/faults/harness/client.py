"""A client that does not give up: it retries with its Idempotency-Key and resumes with Last-Event-ID."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

import httpx

from services.http_stream.sse import SseEvent, SseParser

PAUSE_S = 0.25  # before the first try again; then twice as long each time
PAUSE_S_MAX = 2.0
TRY_AGAIN = frozenset({"queue_unavailable", "draining", "handed_over"})
# Nobody asked for any of these.
NO_REASON = frozenset({"internal_error", "cancelled", "chat_not_found", "invalid_api_key"})


class Outcome(StrEnum):
    """What became of a chat in its client's eyes."""

    ANSWERED = "answered"
    REFUSED = "refused"
    LOST = "lost"


@dataclass
class Job:
    """One chat to have. `key` is its Idempotency-Key and its session."""

    key: str
    tenant: str
    bot: str
    text: str
    max_tokens: int
    stream: bool
    start_s: float = 0.0  # after the load began
    keyed: bool = True  # with an Idempotency-Key


@dataclass(eq=False)
class Observation:
    """What one client saw, over all its connections."""

    job: Job
    outcome: Outcome = Outcome.LOST
    why: str = ""
    chats: list[str] = field(default_factory=list)  # ids, in the order in which they were heard of
    places: list[tuple[int, int]] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    stall_s: float = 0.0  # the longest silence after the first piece
    retries: Counter[str] = field(default_factory=Counter)
    doubled: bool = False  # a piece came twice, or out of order
    last_s: float | None = None

    def piece(self, place: str, text: str) -> None:
        """One event's text."""
        if place:
            attempt, _, number = place.partition("-")
            at = (int(attempt), int(number))
            self.doubled |= bool(self.places) and at <= self.places[-1]
            self.places.append(at)
        self.text += text
        now_s = monotonic()
        if self.last_s is not None:
            self.stall_s = max(self.stall_s, now_s - self.last_s)
        self.last_s = now_s

    def seen_chat(self, chat: str | None) -> None:
        if chat and chat not in self.chats:
            self.chats.append(chat)

    def restart(self) -> None:
        """The whole answer comes again from its beginning."""
        self.places, self.text, self.finish = [], "", None


class Broken(Exception):
    """The connection ended before the answer did."""


class Refusal(Exception):
    """An error body, with its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """`url` and `headers` are asked anew for each try: a host may come back elsewhere.

    `asks_anew`: a chat that the host has forgotten is asked for once more from its beginning.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: Callable[[], str],
        headers: Callable[[str], dict[str, str]],
        patience_s: float,
        *,
        asks_anew: bool = False,
    ) -> None:
        self._http, self._url, self._headers, self._patience_s = http, url, headers, patience_s
        self._asks_anew = asks_anew

    async def have(self, observed: Observation) -> None:
        """The chat, to its end or to the end of the client's patience."""
        until_s, pause_s = monotonic() + self._patience_s, PAUSE_S
        while True:
            had = len(observed.places)
            try:
                await (self._resume(observed) if observed.places else self._ask(observed))
                observed.outcome = Outcome.ANSWERED
                return
            except (httpx.TransportError, Broken) as error:
                observed.why = repr(error)
                observed.retries["connection"] += 1
            except Refusal as refused:
                observed.why = refused.code
                observed.retries[refused.code] += 1
                if self._asks_anew and refused.code == "chat_not_found":
                    observed.restart()
                    continue
                if refused.code not in TRY_AGAIN:
                    observed.outcome = Outcome.LOST if refused.code in NO_REASON else Outcome.REFUSED
                    return
                observed.outcome = Outcome.REFUSED  # unless a later try does better
            if monotonic() > until_s:
                return
            pause_s = PAUSE_S if len(observed.places) > had else pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _ask(self, observed: Observation) -> None:
        job = observed.job
        observed.restart()
        body = {
            "model": job.bot,
            "messages": [{"role": "user", "content": job.text}],
            "max_tokens": job.max_tokens,
            "temperature": 0,
            "stream": job.stream,
        }
        headers = self._headers(job.tenant) | {"X-Bunkhouse-Session": job.key}
        if job.keyed:
            headers["Idempotency-Key"] = job.key
        url = f"{self._url()}/v1/chat/completions"
        # A stream has pings; a whole answer may be silent for as long as it waits and runs.
        timeout = (
            self._http.timeout if job.stream else httpx.Timeout(self._patience_s, connect=self._http.timeout.connect)
        )
        async with self._http.stream("POST", url, headers=headers, json=body, timeout=timeout) as answer:
            await self._take(observed, answer)

    async def _resume(self, observed: Observation) -> None:
        attempt, number = observed.places[-1]
        headers = self._headers(observed.job.tenant) | {"Last-Event-ID": f"{attempt}-{number}"}
        async with self._http.stream(
            "GET", f"{self._url()}/v1/chats/{observed.chats[-1]}/stream", headers=headers
        ) as answer:
            await self._take(observed, answer)

    async def _take(self, observed: Observation, answer: httpx.Response) -> None:
        if answer.status_code != 200:
            raise _refusal(await answer.aread())
        observed.seen_chat(answer.headers.get("x-bunkhouse-chat"))
        if "event-stream" not in answer.headers["content-type"]:
            whole = json.loads(await answer.aread())
            observed.piece("", whole["choices"][0]["message"]["content"] or "")
            observed.finish = whole["choices"][0]["finish_reason"]
            return
        async for event in _events(answer):
            if event.data == b"[DONE]":
                return
            chunk = json.loads(event.data)
            if "error" in chunk:
                raise Refusal(chunk["error"]["code"])
            choice = chunk["choices"][0]
            observed.piece(event.id or "", choice["delta"].get("content") or "")
            observed.finish = choice["finish_reason"] or observed.finish
        raise Broken("the stream ended without [DONE]")


async def _events(answer: httpx.Response) -> AsyncIterator[SseEvent]:
    """Half an event, where a connection broke, is none."""
    parser = SseParser()
    async for piece in answer.aiter_bytes():
        for event in parser.feed(piece):
            yield event


def _refusal(body: bytes) -> Refusal:
    try:
        return Refusal(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return Refusal("internal_error")
