"""What Redis says after a scenario: every answer once and whole, and nothing left over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic

from services.contracts.chats import Ticket
from services.store import redis_keys as keys
from services.store.connection import Connection
from services.store.records import decode, decode_entry
from tests.faults.harness.client import Observation, Outcome

EMPTY_S_MAX = 45.0  # above the worker's ABANDONED_MS
GOOD = (b"stop", b"length")


@dataclass
class Figures:
    """One line of the table."""

    scenario: str
    sent: int = 0
    under_way: tuple[int, int] = (0, 0)  # chats, as the fault began and as it ended
    answered: int = 0
    refused: int = 0
    refused_why: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    lost_why: list[str] = field(default_factory=list)
    doubled: int = 0
    longest_stall_s: float = 0.0
    left_over: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled or left over."""
        return not (self.lost or self.doubled or self.left_over) and self.sent == self.answered + self.refused

    @property
    def refusals(self) -> str:
        """How many were refused, and why."""
        why = ", ".join(f"{count} {code}" for code, count in self.refused_why.items())
        return f"{self.refused} ({why})" if why else str(self.refused)

    def line(self) -> str:
        """The figures in words."""
        words = (
            f"{self.scenario}: sent {self.sent}, under way {self.under_way[0]} to {self.under_way[1]}, "
            f"answered {self.answered}, refused {self.refusals}, lost {self.lost}, doubled {self.doubled}, "
            f"longest stall {self.longest_stall_s:.1f} s, took {self.took_s:.0f} s"
        )
        left = f", left over {self.left_over}" if self.left_over else ""
        return words + left + (f"; {self.lost_why[:3]}" if self.lost_why else "")


async def audit(
    scenario: str, observed: list[Observation], connection: Connection, took_s: float, *, forgets: bool = False
) -> Figures:
    """Clients' words against Redis's. `forgets`: what Redis no longer has is no difference."""
    figures = Figures(scenario, sent=len(observed), took_s=round(took_s, 1))
    figures.left_over = await _left_over(connection)
    doubled_keys = await _answered_twice(connection, {one.job.key for one in observed})
    retries: Counter[str] = Counter()
    for one in observed:
        retries.update(one.retries)
        figures.longest_stall_s = round(max(figures.longest_stall_s, one.stall_s), 2)
        figures.doubled += one.doubled or one.job.key in doubled_keys
        if one.outcome is Outcome.REFUSED:
            figures.refused += 1
            figures.refused_why[one.why] = figures.refused_why.get(one.why, 0) + 1
            continue
        wrong = one.why if one.outcome is Outcome.LOST else await _differs(connection, one, forgets=forgets)
        if wrong:
            figures.lost += 1
            figures.lost_why.append(f"{one.job.key}: {wrong}")
        else:
            figures.answered += 1
    figures.retries = dict(retries)
    return figures


async def _differs(connection: Connection, observed: Observation, *, forgets: bool) -> str:
    """How a client's answer differs from the stored one; empty when it is the same."""
    entries = [
        decode_entry(place, values) for place, values in await connection.redis.xrange(keys.reply(observed.chats[-1]))
    ]
    if forgets and not entries:
        return ""
    ends = [entry.end for entry in entries if entry.end is not None]
    if len(ends) != 1:
        return f"{len(ends)} ends"
    if (stored := "".join(entry.text for entry in entries)) != observed.text:
        return f"the client has {observed.text!r}, the host {stored!r}"
    tokens = sum(entry.tokens for entry in entries)
    if ends[0].usage is None or ends[0].usage.completion_tokens != tokens:
        return f"{tokens} tokens were written, {ends[0].usage} counted"
    if tokens > observed.job.max_tokens:
        return f"{tokens} tokens, {observed.job.max_tokens} were asked for"
    return ""


async def _answered_twice(connection: Connection, wanted: Iterable[str]) -> set[str]:
    """Keys that more than one chat was answered for. Each chat's session is its key."""
    asked, seen = set(wanted), Counter[str]()
    async for name in connection.redis.scan_iter(match=keys.chat("*"), count=1000):
        ticket, finish = await connection.redis.hmget(name, ["ticket", "finish"])
        if finish in GOOD and ticket:
            seen[decode(Ticket, ticket).session] += 1
    return {key for key, count in seen.items() if count > 1 and key in asked}


async def _left_over(connection: Connection) -> dict[str, int]:
    """What still waits, runs or is reserved, once that had time to end."""
    until_s = monotonic() + EMPTY_S_MAX
    while True:
        redis = connection.redis
        found = {what: int(await redis.hlen(what)) for what in (keys.RESERVATIONS, keys.WAITING)}
        async for name in redis.scan_iter(match=keys.ready("*")):
            found[name.decode()] = int(await redis.xlen(name))
        left = {what: count for what, count in found.items() if count}
        if not left or monotonic() > until_s:
            return left
        await asyncio.sleep(0.5)
