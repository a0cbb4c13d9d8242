"""What the scheduler is compared with. All hold KV at 16 bits, weigh no bandwidth, and drop a chat at its deadline.

Fifo         one queue a model, in order of arrival; its pool is a static partition of the memory
TokenBucket  the same, behind a bucket of tokens a second per tenant; over it, a chat is refused at once
LeastKv      each chat goes to the engine with the least KV promised, whatever model it names, and queues there
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from scheduler.core import Scheduler
from scheduler.settings import SchedulerSettings
from services.contracts.chats import ChatUsage, KvBits, Ticket
from services.contracts.decisions import Decision, Outcome, Reason
from services.contracts.engines import EngineFacts, EngineReport


class Subject(Protocol):
    """What a world drives: the scheduler, or a baseline in its place."""

    def arrive(self, ticket: Ticket, now_s: float) -> None: ...
    def settle(self, chat: str, usage: ChatUsage | None, now_s: float) -> None: ...
    def engine_reported(self, report: EngineReport) -> None: ...
    def step(self, now_s: float) -> list[Decision]: ...
    def next_step_s(self) -> float | None: ...
    def pressure(self, model: str) -> float: ...
    def reserved_bytes(self) -> int: ...
    def check_integrity(self) -> None: ...


class Bunkhouse(Scheduler):
    """The real thing."""

    def __init__(self, settings: SchedulerSettings, engines: Iterable[EngineFacts]) -> None:
        super().__init__(settings)
        for facts in engines:
            self.engine_started(facts, 0.0)

    def reserved_bytes(self) -> int:
        return sum(account.reserved_bytes for account in self.ledger.accounts.values())

    def pressure(self, model: str) -> float:
        account = self.ledger.accounts[model]
        return account.reserved_bytes / account.facts.kv_budget_bytes


class Fifo:
    """First come, first served, per model."""

    def __init__(self, engines: Iterable[EngineFacts], bits: KvBits = KvBits.SIXTEEN) -> None:
        self._facts = {facts.model: facts for facts in engines}
        self._bits = bits
        self._queues: dict[str, deque[Ticket]] = {model: deque() for model in self._facts}
        self._reserved = dict.fromkeys(self._facts, 0)
        self._held: dict[str, tuple[str, int]] = {}
        self._chats = dict.fromkeys(self._facts, 0)

    def size(self, ticket: Ticket, model: str) -> int:
        return ticket.tokens_max * self._facts[model].kv_bytes_per_token[self._bits]

    def arrive(self, ticket: Ticket, now_s: float) -> None:
        self._queues[ticket.model].append(ticket)

    def settle(self, chat: str, usage: ChatUsage | None, now_s: float) -> None:
        model, size = self._held.pop(chat)
        self._reserved[model] -= size
        self._chats[model] -= 1

    def engine_reported(self, report: EngineReport) -> None: ...

    def step(self, now_s: float) -> list[Decision]:
        out = []
        for model, queue in self._queues.items():
            facts = self._facts[model]
            while queue:
                ticket = queue[0]
                size = self.size(ticket, model)
                if now_s >= ticket.deadline_s or size > facts.kv_budget_bytes:
                    out.append(Decision(ticket.chat, Outcome.REJECT, Reason.DEADLINE, self._bits))
                elif self._reserved[model] + size <= facts.kv_budget_bytes and self._chats[model] < facts.chats_max:
                    self._reserved[model] += size
                    self._chats[model] += 1
                    self._held[ticket.chat] = (model, size)
                    out.append(
                        Decision(ticket.chat, Outcome.ADMIT, Reason.ROOM, self._bits, size, numbers={"model": model})
                    )
                else:
                    break
                queue.popleft()
        return out

    def next_step_s(self) -> float | None:
        return None

    def reserved_bytes(self) -> int:
        return sum(self._reserved.values())

    def pressure(self, model: str) -> float:
        return self._reserved[model] / self._facts[model].kv_budget_bytes

    def check_integrity(self) -> None: ...


class TokenBucket(Fifo):
    """`tokens_per_s` for each tenant, a minute of it at once."""

    def __init__(self, engines: Iterable[EngineFacts], tokens_per_s: float) -> None:
        super().__init__(engines)
        self._per_s = tokens_per_s
        self._left: dict[str, tuple[float, float]] = {}
        self._refused: list[Decision] = []

    def arrive(self, ticket: Ticket, now_s: float) -> None:
        left, at_s = self._left.get(ticket.tenant, (self._per_s * 60.0, now_s))
        left = min(self._per_s * 60.0, left + (now_s - at_s) * self._per_s)
        price = ticket.prompt_tokens + ticket.max_tokens / 2
        if left < price:
            self._left[ticket.tenant] = (left, now_s)
            self._refused.append(Decision(ticket.chat, Outcome.REJECT, Reason.TENANT_LIMIT, ticket.kv_bits))
        else:
            self._left[ticket.tenant] = (left - price, now_s)
            super().arrive(ticket, now_s)

    def step(self, now_s: float) -> list[Decision]:
        refused, self._refused = self._refused, []
        return refused + super().step(now_s)


class LeastKv(Fifo):
    """Routing alone, without admission."""

    def arrive(self, ticket: Ticket, now_s: float) -> None:
        def promised(model: str) -> int:
            return self._reserved[model] + sum(self.size(waiting, model) for waiting in self._queues[model])

        self._queues[min(self._facts, key=promised)].append(ticket)
