"""Tenants and what they send.

A tenant opens sessions as a Poisson process whose rate follows the hour (`day`: a sine between a fifth of `per_s` at
night and `per_s` at noon), bursts (`burst`: that many times the rate for one minute of every ten) or a flood (`per_s`
from `flood_from_s` on only). A day is played in two hours, at the rates of a full day's rush hours. A session has a
geometric number of turns; each turn's prompt is all that was said before plus a new message, and the next turn comes
`think_s` after the answer. Lengths are log-normal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import pi, sin
from random import Random

from gateway.kv_policies import Policy, policy
from services.contracts.chats import Task, Ticket

DAY_S = 7_200.0
TASKS: Mapping[Task, float] = {  # what customers ask, as parts of all chats
    Task.SUPPORT: 0.40,
    Task.FACTS: 0.20,
    Task.COMPLAINT: 0.18,
    Task.CREATIVE: 0.07,
    Task.MATHS: 0.06,
    Task.CODE: 0.05,
    Task.LOGIC: 0.04,
}


@dataclass(frozen=True)
class TenantLoad:
    """One tenant's habits."""

    name: str
    models: tuple[str, ...]
    per_s: float  # sessions opened a second, at most
    day: bool = False
    burst: float = 1.0
    flood_from_s: float = 0.0
    turns: float = 3.0  # mean
    think_s: float = 20.0  # mean
    system_tokens: int = 300
    message_tokens: float = 60.0  # median of a new message
    message_spread: float = 0.8  # sigma of its logarithm
    document_part: float = 0.0  # of sessions that open with a document
    document_tokens: float = 6000.0
    answer_tokens: float = 150.0  # median
    answer_spread: float = 0.6
    max_tokens: int = 512
    context_tokens: int = 16_384
    deadline_s: float = 60.0
    policy: Policy = field(default_factory=lambda: policy("auto"))
    bits_available: tuple[int, ...] = (4, 8)

    def rate(self, now_s: float) -> float:
        """Sessions a second at a time of day."""
        rate = self.per_s if now_s >= self.flood_from_s else 0.0
        if self.day:
            rate *= 0.6 - 0.4 * sin(2 * pi * (now_s / DAY_S + 0.25))
        if self.burst > 1.0 and now_s % 600.0 < 60.0:
            rate *= self.burst
        return rate

    def next_session_s(self, rng: Random, now_s: float) -> float:
        """When the next session opens, by thinning."""
        most = self.per_s * max(1.0, self.burst)
        if most <= 0:
            return float("inf")
        while True:
            now_s += rng.expovariate(most)
            if rng.random() * most <= self.rate(now_s):
                return now_s


@dataclass
class Session:
    """A conversation that goes on."""

    load: TenantLoad
    name: str
    model: str
    task: Task
    turns_left: int
    tokens: int
    opening: bool = field(default=True, kw_only=True)

    def turn(self, chat: str, rng: Random, now_s: float, pressure: float) -> tuple[Ticket, int]:
        """The next chat, and how many tokens its answer will have."""
        load = self.load
        self.turns_left -= 1
        opening, self.opening = self.opening, False
        self.tokens += max(4, round(rng.lognormvariate(0, load.message_spread) * load.message_tokens))
        answer = max(2, min(load.max_tokens, round(rng.lognormvariate(0, load.answer_spread) * load.answer_tokens)))
        wanted, floor, demotable = load.policy.choose(self.task, load.bits_available, pressure)
        ticket = Ticket(
            chat=chat,
            request=chat,
            tenant=load.name,
            bot=f"{load.name}/bot",
            model=self.model,
            session=self.name,
            prompt_tokens=min(self.tokens, load.context_tokens - load.max_tokens),
            max_tokens=load.max_tokens,
            kv_bits=wanted,
            kv_bits_floor=floor,
            task=self.task,
            created_s=now_s,
            deadline_s=now_s + load.deadline_s,
            demotable=demotable,
            opening=opening,
        )
        return ticket, answer


def open_session(load: TenantLoad, name: str, rng: Random) -> Session:
    """A new conversation of the tenant."""
    turns = 1
    while turns < 50 and rng.random() > 1.0 / load.turns:
        turns += 1
    tokens = load.system_tokens
    if rng.random() < load.document_part:
        tokens += round(rng.lognormvariate(0, 0.5) * load.document_tokens)
    task = rng.choices(list(TASKS), weights=list(TASKS.values()))[0]
    return Session(load, name, rng.choice(load.models), task, turns, tokens)
