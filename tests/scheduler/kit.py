"""Engines, tickets and a scheduler with a clock, for the scheduler's tests. 1 token takes 1 byte at 4 bits, 2 at 8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from scheduler.core import Scheduler
from scheduler.settings import SchedulerSettings
from services.contracts.chats import ChatUsage, KvBits, Task, Ticket
from services.contracts.decisions import Decision, Outcome, Reason
from services.contracts.engines import EngineFacts, EngineReport, EngineState

NOW_S = 1_000.0
ADMITTED = (Outcome.ADMIT, Outcome.ADMIT_DEMOTED)


def facts(model: str = "m", **changes: Any) -> EngineFacts:
    values: dict[str, Any] = {
        "engine": "sglang",
        "weight_bytes": 1000,
        "overhead_bytes": 0,
        "kv_budget_bytes": 1000,
        "kv_bytes_per_token": {4: 1, 8: 2, 16: 4},
        "context_tokens": 900,
        "chats_max": 100,
        "kv_bits": KvBits.EIGHT,
        "live_kv_bits": True,
    }
    return EngineFacts(model=model, **{**values, **changes})


def ticket(chat: str, tenant: str = "a", model: str = "m", *, tokens: int = 100, **changes: Any) -> Ticket:
    """Holds `tokens` at most, half of them prompt. Wants 4 bits, so that bytes are tokens."""
    values: dict[str, Any] = {
        "request": chat,
        "bot": f"{tenant}/bot",
        "session": f"session-of-{chat}",
        "prompt_tokens": tokens // 2,
        "max_tokens": tokens - tokens // 2,
        "kv_bits": KvBits.FOUR,
        "kv_bits_floor": KvBits.FOUR,
        "task": Task.SUPPORT,
        "created_s": NOW_S,
        "deadline_s": NOW_S + 100.0,
        "opening": True,
    }
    return Ticket(chat=chat, tenant=tenant, model=model, **{**values, **changes})


def usage(prompt: int = 50, completion: int = 50, cached: int = 0, ran_s: float | None = None) -> ChatUsage:
    return ChatUsage(prompt, cached, completion, KvBits.FOUR, ran_s=ran_s)


class Host:
    """A scheduler whose clock is moved by hand, and whose engines report every time it moves."""

    def __init__(self, *engines: EngineFacts, **settings: Any) -> None:
        plain = {"page_tokens": 1, "headroom": 0.0, "latency_headroom": 0.0, "latency_margin": 0.0}
        self.scheduler = Scheduler(SchedulerSettings(**{**plain, **settings}))
        self.now_s = NOW_S
        self.decided: dict[str, Decision] = {}
        self.models = [engine.model for engine in engines]
        for engine in engines:
            self.scheduler.engine_started(engine, self.now_s)

    def wait(self, seconds: float = 0.3, **report: Any) -> list[str]:
        """Time passes, engines report, the scheduler steps. Returns the chats that were let in."""
        self.now_s += seconds
        for model in self.models:
            self.report(model, **report)
        return self.step()

    def report(self, model: str, **changes: Any) -> None:
        values: dict[str, Any] = {"state": EngineState.READY, **changes}
        self.scheduler.engine_reported(EngineReport(model=model, at_s=self.now_s, **values))

    def step(self) -> list[str]:
        decisions = self.scheduler.step(self.now_s)
        self.scheduler.check_integrity()
        for decision in decisions:
            assert decision.chat not in self.decided, "decided twice"
            self.decided[decision.chat] = decision
        return [decision.chat for decision in decisions if decision.outcome in ADMITTED]

    def send(self, *tickets: Ticket) -> list[str]:
        """Tickets arrive together. Returns the chats that were let in."""
        for one in tickets:
            self.scheduler.arrive(one, self.now_s)
        return self.step()

    def end(self, *chats: str, used: ChatUsage | None = None) -> list[str]:
        """Chats end. Returns the chats that were let in for it."""
        for chat in chats:
            held = self.scheduler.ledger.get(chat)
            ran_s = self.now_s - held.admitted_s if held else None
            self.scheduler.settle(chat, used or usage(ran_s=ran_s), self.now_s)
        return self.step()

    def answer(self, chat: str) -> tuple[Outcome, Reason]:
        return self.decided[chat].outcome, self.decided[chat].reason

    def why(self, chat: str) -> Mapping[str, Any]:
        """Its explanation, without what does not apply."""
        found = asdict(self.scheduler.explain(chat, self.now_s))
        return {name: value for name, value in found.items() if value is not None}
