"""The virtual clock: events in order of time, and the scheduler stepped after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random

from benchmarks.simulation.baselines import Subject
from benchmarks.simulation.gpu import Devices, Job
from benchmarks.simulation.traffic import Session, TenantLoad, open_session
from scheduler.core import Scheduler
from services.contracts.chats import ChatUsage, Ticket
from services.contracts.decisions import Decision, Outcome, Reason

REPORT_S = 1.0


@dataclass(slots=True)
class Chat:
    """What became of one chat."""

    ticket: Ticket
    completion_tokens: int
    turn: bool  # not the first of its session
    outcome: Outcome | None = None
    reason: Reason | None = None
    decided_s: float = 0.0
    first_token_s: float | None = None
    done_s: float | None = None
    kv_bits: int = 0

    @property
    def answered(self) -> bool:
        """Whether its answer is complete."""
        return self.done_s is not None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from arrival."""
        return None if self.first_token_s is None else self.first_token_s - self.ticket.created_s

    @property
    def inter_token_s(self) -> float | None:
        """Mean over the answer."""
        if self.done_s is None or self.first_token_s is None:
            return None
        return max(0.0, self.done_s - self.first_token_s) / max(1, self.completion_tokens - 1)


class World:
    """One run. `watch` is called after every event, with the world."""

    def __init__(
        self,
        subject: Subject,
        gpu: Devices,
        loads: Iterable[TenantLoad],
        seed: int,
        watch: Callable[[World], None] | None = None,
    ) -> None:
        self.subject = subject
        self.gpu = gpu
        self.chats: dict[str, Chat] = {}
        self.steps = 0
        self.demotions = 0
        self._rngs: dict[str, Random] = {}  # one a tenant, so that another's traffic does not change its own
        self._until_s = 0.0
        self._watch = watch
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._sessions: dict[str, Session] = {}  # by chat
        for load in loads:
            self._rngs[load.name] = Random(f"{seed}/{load.name}")
            self._open_later(load)
        self.at(0.0, self._report)

    def at(self, when_s: float, do: Callable[[], None]) -> None:
        """Do something at a time."""
        self._order += 1
        heappush(self._events, (when_s, self._order, do))

    def run(self, until_s: float, drain_s: float = 600.0) -> None:
        """Traffic until `until_s`, then up to `drain_s` for what is left to end."""
        self._until_s = until_s
        while True:
            wake_s = self.subject.next_step_s()
            next_s = min(self._events[0][0], self.gpu.next_event_s())
            if wake_s is not None:
                next_s = min(next_s, max(wake_s, self.gpu.now_s))
            open_chats = any(engine.running for engine in self.gpu.engines.values()) or wake_s is not None
            if next_s > until_s + drain_s or (next_s > until_s and not open_chats):
                return
            for job in self.gpu.advance(max(next_s, self.gpu.now_s)):
                self._settle(job)
            while self._events and self._events[0][0] <= self.gpu.now_s:
                heappop(self._events)[2]()
            for decision in self.subject.step(self.gpu.now_s):
                self._carry_out(decision)
            self.steps += 1
            if self._watch is not None:
                self._watch(self)

    def _open_later(self, load: TenantLoad) -> None:
        rng = self._rngs[load.name]

        def opens() -> None:
            self._order += 1
            session = open_session(load, f"{load.name}-{self._order}", rng)
            self._send(session, turn=False)
            self._open_later(load)

        self.at(load.next_session_s(rng, self.gpu.now_s), opens)

    def _send(self, session: Session, turn: bool) -> None:
        now_s = self.gpu.now_s
        if now_s > self._until_s:
            return
        self._order += 1
        name = f"c{self._order}"
        ticket, answer = session.turn(name, self._rngs[session.load.name], now_s, self.subject.pressure(session.model))
        self.chats[name] = Chat(ticket, answer, turn)
        self._sessions[name] = session
        self.subject.arrive(ticket, now_s)

    def _carry_out(self, decision: Decision) -> None:
        chat = self.chats[decision.chat]
        chat.outcome, chat.reason, chat.decided_s = decision.outcome, decision.reason, self.gpu.now_s
        if decision.outcome in (Outcome.ADMIT, Outcome.ADMIT_DEMOTED):
            model = str(decision.numbers.get("model", chat.ticket.model))
            ticket = chat.ticket if model == chat.ticket.model else replace(chat.ticket, model=model)
            self.gpu.start(ticket, decision.kv_bits, chat.completion_tokens)
        else:
            del self._sessions[decision.chat]  # the customer gives up

    def _settle(self, job: Job) -> None:
        chat = self.chats[job.ticket.chat]
        chat.first_token_s, chat.done_s, chat.kv_bits = job.first_token_s, job.done_s, int(job.kv_bits)
        tokens = (job.ticket.prompt_tokens, job.cached_tokens, job.completion_tokens)
        usage = ChatUsage(*tokens, job.kv_bits, ran_s=self.gpu.now_s - job.admitted_s)
        self.subject.settle(job.ticket.chat, usage, self.gpu.now_s)
        session = self._sessions.pop(job.ticket.chat)
        session.tokens += job.completion_tokens
        if session.turns_left > 0:
            pause_s = self._rngs[session.load.name].expovariate(1.0 / session.load.think_s)
            self.at(self.gpu.now_s + pause_s, lambda: self._send(session, turn=True))

    def _report(self) -> None:
        for model in self.gpu.engines:
            self.subject.engine_reported(self.gpu.report(model))
        if isinstance(self.subject, Scheduler):
            for wanted in self.subject.demotions():
                if self.gpu.demote(wanted.chat, wanted.model, wanted.kv_bits):
                    self.subject.demoted(wanted.chat, wanted.kv_bits, self.gpu.now_s)
                    self.demotions += 1
        self.at(self.gpu.now_s + REPORT_S, self._report)
