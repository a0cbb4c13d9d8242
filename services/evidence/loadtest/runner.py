"""Runs a scenario: starts sessions when they are due, walks each through its turns, records every chat.

Coordinated omission is avoided by counting every latency from the *intended* send time: the drawn arrival for
a session's first turn, the last answer's end plus think time for later ones. When this process, a full
connection limit or a slow connect delays a send, the delay is part of the figure, and `sent_s - intended_s`
shows it.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from services.contracts.scenario import Closed, Scenario, TenantLoad
from services.evidence.checker import is_correct
from services.http_stream.client import Clock, ConnectionBroken, StreamAnswer, StreamClient

from . import arrivals
from .record import ChatRecord, Result
from .session import SessionPlan, TurnPlan, plan_session
from .stream import ChatStream, CountTokens, error_label, read_headers

OnRecord = Callable[[ChatRecord], None]
RECENT_CHATS_MAX = 2_000


@dataclass(slots=True)
class TenantTally:
    """One tenant's counts."""

    results: Counter[Result] = field(default_factory=Counter)
    tokens: int = 0


@dataclass(slots=True)
class RunCounts:
    """Counts over the whole run so far, and the last chats for their latencies."""

    active: int = 0
    active_max: int = 0
    results: Counter[Result] = field(default_factory=Counter)
    tenants: dict[str, TenantTally] = field(default_factory=dict)
    tokens: int = 0
    recent: deque[ChatRecord] = field(default_factory=lambda: deque(maxlen=RECENT_CHATS_MAX))

    def began(self) -> None:
        self.active += 1
        self.active_max = max(self.active_max, self.active)

    def ended(self, record: ChatRecord) -> None:
        self.active -= 1
        self.results[record.result] += 1
        self.tokens += record.tokens
        tenant = self.tenants.setdefault(record.tenant, TenantTally())
        tenant.results[record.result] += 1
        tenant.tokens += record.tokens
        self.recent.append(record)

    def recent_first_tokens(self, since_s: float) -> list[float]:
        """Seconds to the first token of chats that ended after `since_s`."""
        return [r.first_token_s for r in self.recent if r.end_s >= since_s and r.first_token_s is not None]


class Runner:
    """One run of one scenario. `run_id` keeps its sessions apart from other runs' on the same server."""

    def __init__(
        self,
        scenario: Scenario,
        http: StreamClient,
        clock: Clock,
        *,
        run_id: str,
        on_record: OnRecord,
        count_tokens: CountTokens | None = None,
    ) -> None:
        self.tally = RunCounts()
        self._scenario = scenario
        self._http = http
        self._clock = clock
        self._run_id = run_id
        self._on_record = on_record
        self._count_tokens = count_tokens
        self._keys = {t.name: t.api_key() for t in scenario.tenants}
        self._slots = asyncio.Semaphore(scenario.streams_max)
        self._start_s = 0.0
        self._sessions: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None

    def now(self) -> float:
        """Seconds since the run's start."""
        return self._clock() - self._start_s

    async def run(self) -> None:
        """Run to the end of `duration_s` and at most `drain_s` beyond; every chat sent is recorded."""
        self._start_s = self._clock()
        for tenant in self._scenario.tenants:
            if isinstance(tenant.arrivals, Closed):
                for user in range(tenant.arrivals.users):
                    self._spawn(self._closed_user(tenant, user, tenant.arrivals.users))
        try:
            for at_s, tenant, number in self._schedule():
                if (wait := at_s - self.now()) > 0:
                    await asyncio.sleep(wait)
                if self._failure is not None:
                    break
                self._spawn(self._session(plan_session(self._scenario, tenant, number), at_s))
            if self._sessions:
                left_s = self._scenario.duration_s + self._scenario.drain_s - self.now()
                await asyncio.wait(self._sessions, timeout=max(0.0, left_s))
        finally:
            for task in self._sessions:
                task.cancel()
            await asyncio.gather(*self._sessions, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def _spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(coroutine)
        self._sessions.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._sessions.discard(task)
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()

    def _schedule(self) -> Iterator[tuple[float, TenantLoad, int]]:
        """All tenants' open-loop arrivals, merged in time."""
        streams = [self._arrivals(place, tenant) for place, tenant in enumerate(self._scenario.tenants)]
        for at, place, number in heapq.merge(*streams):
            yield at, self._scenario.tenants[place], number

    def _arrivals(self, place: int, tenant: TenantLoad) -> Iterator[tuple[float, int, int]]:
        rng = random.Random(f"{self._scenario.seed}/{tenant.name}/arrivals")
        if isinstance(tenant.arrivals, Closed):
            return
        times = arrivals.arrival_times(tenant.arrivals, self._scenario.duration_s, rng)
        yield from ((at, place, number) for number, at in enumerate(times))

    async def _closed_user(self, tenant: TenantLoad, user: int, users: int) -> None:
        ready_s = 0.0
        for number in count(user, users):
            if ready_s >= self._scenario.duration_s:
                return
            plan = plan_session(self._scenario, tenant, number)
            answered = await self._session(plan, ready_s)
            if not answered:  # a user who was turned away does not hammer
                await asyncio.sleep(1.0)
            ready_s = self.now()

    async def _session(self, plan: SessionPlan, start_s: float) -> bool:
        """All turns of one session; it ends early when a chat is not answered. True: it was answered."""
        messages: list[dict[str, str]] = []
        if plan.tenant.system_prompt:
            messages.append({"role": "system", "content": plan.tenant.system_prompt})
        ready_s = start_s
        for place, turn in enumerate(plan.turns):
            intended_s = ready_s + turn.think_s
            if place and intended_s >= self._scenario.duration_s:
                break
            if (wait := intended_s - self.now()) > 0:
                await asyncio.sleep(wait)
            messages.append({"role": "user", "content": turn.user})
            record, text = await self._chat(plan, place, turn, messages, intended_s)
            if record.result is not Result.OK:
                return record.result is Result.ABANDONED
            messages.append({"role": "assistant", "content": text if turn.scripted is None else turn.scripted})
            ready_s = record.end_s
        return True

    async def _chat(
        self, plan: SessionPlan, place: int, turn: TurnPlan, messages: list[dict[str, str]], intended_s: float
    ) -> tuple[ChatRecord, str]:
        record = ChatRecord(plan.tenant.name, plan.id, place, plan.language, plan.task, intended_s, sent_s=intended_s)
        stream = ChatStream(record, self._start_s, plan.tenant.abandon.after_pieces if turn.abandon else None)
        self.tally.began()
        try:
            async with asyncio.timeout(self._scenario.chat_s_max), self._slots:
                record.sent_s = self.now()
                body, headers = self._request(plan, messages)
                answer = await self._http.post("/chat/completions", headers, body, stream.feed)
            self._judge(record, stream, answer)
        except ConnectionBroken as error:
            record.reason = str(error)
        except TimeoutError:
            record.reason = "timed out"
        except asyncio.CancelledError:
            record.result, record.reason = Result.UNFINISHED, "still running at the end"
            raise
        finally:
            record.end_s = self.now()
            if plan.question is not None and record.result is Result.OK:
                record.correct = is_correct(plan.question, stream.text)
            self.tally.ended(record)
            self._on_record(record)
        return record, stream.text

    def _request(self, plan: SessionPlan, messages: list[dict[str, str]]) -> tuple[bytes, dict[str, str]]:
        tenant = plan.tenant
        body: dict[str, object] = {
            "model": tenant.model,
            "messages": messages,
            "max_tokens": tenant.max_tokens,
            "temperature": tenant.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._scenario.send_task:
            body["metadata"] = {"task": plan.task}
        headers = {"accept": "text/event-stream", "last-event-id": "0-0"}  # Bunkhouse numbers its events then
        if key := self._keys[tenant.name]:
            headers["authorization"] = f"Bearer {key}"
        if self._scenario.session_header:
            headers[self._scenario.session_header] = f"{self._run_id}-{plan.id}"
        return orjson.dumps(body), headers

    def _judge(self, record: ChatRecord, stream: ChatStream, answer: StreamAnswer) -> None:
        headers = answer.headers
        record.status = answer.status
        record.head_s = answer.head_s - self._start_s
        read_headers(record, headers)
        if answer.status == 200:
            if not headers.get("content-type", "").startswith("text/event-stream"):
                record.reason = "200 without a stream"
                return
            stream.close(answer.cut, self._count_tokens)
            return
        try:
            body = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            body = None
        record.result = Result.REFUSED if answer.status in (429, 503) else Result.FAILED
        record.reason = error_label(answer.status, body)
