"""What was served, by tenant, bot and day, from the counters that settle and refuse chats.

The counters are integers but for byte-seconds and queue seconds, so sums are exact. Days are UTC. A day's counters are
read as they are; `roll_up` keeps a day's rows for good, and gives its counters up once they are `RAW_KEEP_DAYS` old.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import orjson

from services.store import redis_keys as keys
from services.store.charges import REFUSED
from services.store.connection import Connection, translated

RAW_KEEP_DAYS = 90
ROLLUP_AFTER_S = 3600.0  # after midnight: a worker's clock may be behind
FINISH = "finish:"
MICRO = 1_000_000
By = Literal["row", "day", "tenant", "bot", "total"]


@dataclass
class UsageCounts:
    """Counters of one bot on one day, or sums of several. Tokens, seconds, byte-seconds, micro-dollars."""

    day: str | None = None
    tenant: str | None = None
    bot: str | None = None
    chats: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0  # a part of completion_tokens
    kv_byte_seconds: float = 0.0
    queue_seconds: float = 0.0
    overflow_chats: int = 0
    overflow_microusd: int = 0
    finishes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, amount: str | float) -> None:
        """One stored counter. Counters of a newer version are not this one's to read."""
        if name.startswith(REFUSED):
            _add(self.refused, name.removeprefix(REFUSED), int(amount))
        elif name.startswith(FINISH):
            _add(self.finishes, name.removeprefix(FINISH), int(amount))
        elif name in _INTEGERS:
            setattr(self, name, getattr(self, name) + int(amount))
        elif name in _FLOATS:
            setattr(self, name, getattr(self, name) + float(amount))

    def add(self, other: UsageCounts) -> None:
        """Sum up."""
        for name in (*_INTEGERS, *_FLOATS):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.finishes, other.finishes), (self.refused, other.refused)):
            for name, amount in theirs.items():
                _add(mine, name, amount)


_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_INTEGERS = ("chats", *_TOKENS, "overflow_chats", "overflow_microusd")
_FLOATS = ("kv_byte_seconds", "queue_seconds")
COLUMNS = ("day", "tenant", "bot", "chats", *_TOKENS, *_FLOATS, "overflow_chats", "overflow_usd", "finishes", "refused")


async def rows(connection: Connection, first: str, last: str) -> list[UsageCounts]:
    """Every bot's row of each day from `first` to `last` (YYYY-MM-DD, both included). Raises QueueUnavailable."""
    with translated():
        names = sorted(name.decode() for name in await connection.redis.smembers(keys.USAGES))
        wanted = [place for place in map(_place, names) if first <= place[0] <= last]
        async with connection.redis.pipeline(transaction=False) as pipe:
            for place in wanted:
                pipe.hgetall(keys.usage(*place))
            stored = await pipe.execute()
        kept = await connection.redis.hgetall(keys.ROLLUP)
    found: list[UsageCounts] = []
    for (day, tenant, bot), counters in zip(wanted, stored, strict=True):
        row = UsageCounts(day, tenant, bot)
        for name, amount in counters.items():
            row.count(name.decode(), amount.decode())
        found.append(row)
    raw_days = {row.day for row in found}
    for day, data in kept.items():
        if first <= day.decode() <= last and day.decode() not in raw_days:
            found += [UsageCounts(**values) for values in orjson.loads(data)]
    return sorted(found, key=lambda row: (row.day or "", row.tenant or "", row.bot or ""))


async def restore_row(connection: Connection, row: UsageCounts) -> bool:
    """Store one row's counters again, unless its bot or its day was counted since. Raises QueueUnavailable."""
    if row.day is None or row.tenant is None or row.bot is None:
        raise ValueError("a row of usage has a day, a tenant and a bot")
    name = keys.usage(row.day, row.tenant, row.bot)
    counters = {each: getattr(row, each) for each in (*_INTEGERS, *_FLOATS)}
    counters |= {f"{FINISH}{each}": amount for each, amount in row.finishes.items()}
    counters |= {f"{REFUSED}{each}": amount for each, amount in row.refused.items()}
    with translated():
        if await connection.redis.exists(name) or await connection.redis.hexists(keys.ROLLUP, row.day):
            return False
        async with connection.redis.pipeline(transaction=True) as pipe:
            pipe.hset(name, mapping=counters)
            pipe.sadd(keys.USAGES, name)
            await pipe.execute()
    return True


async def roll_up(connection: Connection, day: str, now_s: float) -> list[UsageCounts]:
    """Keep a day's rows for good. The same day again gives the same. Raises QueueUnavailable."""
    found = await rows(connection, day, day)
    with translated():
        if found:
            await connection.redis.hset(keys.ROLLUP, day, orjson.dumps(found))
        if _kept_long_enough(day, now_s):
            names = [name for name in await connection.redis.smembers(keys.USAGES) if _place(name.decode())[0] == day]
            if names:
                async with connection.redis.pipeline(transaction=True) as pipe:
                    pipe.delete(*names)
                    pipe.srem(keys.USAGES, *names)
                    await pipe.execute()
    return found


async def days_due(connection: Connection, now_s: float) -> list[str]:
    """Days to roll up, oldest first: those that are over and were not yet, and those whose counters can go, which adds
    what came after the first time. Raises QueueUnavailable."""
    with translated():
        days = {_place(name.decode())[0] for name in await connection.redis.smembers(keys.USAGES)}
        done = {day.decode() for day in await connection.redis.hkeys(keys.ROLLUP)}
    over = day_now(now_s - ROLLUP_AFTER_S)
    return sorted(day for day in days if day < over and (day not in done or _kept_long_enough(day, now_s)))


def grouped(found: Iterable[UsageCounts], by: By) -> list[UsageCounts]:
    """Sums over what `by` leaves apart."""
    if by == "row":
        return list(found)
    sums: dict[str, UsageCounts] = {}
    for row in found:
        label = {"day": row.day, "tenant": row.tenant, "bot": row.bot, "total": ""}[by] or ""
        if label not in sums:
            sums[label] = UsageCounts(
                day=row.day if by == "day" else None,
                tenant=row.tenant if by in ("tenant", "bot") else None,
                bot=row.bot if by == "bot" else None,
            )
        sums[label].add(row)
    return [sums[label] for label in sorted(sums)]


def total(found: Iterable[UsageCounts]) -> UsageCounts:
    """The sum of all."""
    summed = UsageCounts()
    for row in found:
        summed.add(row)
    return summed


def as_dict(row: UsageCounts) -> dict[str, object]:
    """A row with dollars."""
    values = {name: getattr(row, name) for name in COLUMNS if name != "overflow_usd"}
    return values | {"overflow_usd": row.overflow_microusd / MICRO}


def as_csv(found: Iterable[UsageCounts]) -> str:
    """A table with a head; finishes and refusals as `reason=count` words."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in found:
        values = as_dict(row)
        writer.writerow([_cell(values[name]) for name in COLUMNS])
    return out.getvalue()


def day_now(now_s: float) -> str:
    """Today, UTC."""
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d")


def day_before(day: str, days: int) -> str:
    """A day so many before another. Raises ValueError for what is no day."""
    return (date.fromisoformat(day) - timedelta(days=days)).isoformat()


def _kept_long_enough(day: str, now_s: float) -> bool:
    """Whether a day's counters can go."""
    return day < day_before(day_now(now_s), RAW_KEEP_DAYS)


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={amount}" for name, amount in sorted(value.items()))
    return "" if value is None else value


def _place(name: str) -> tuple[str, str, str]:
    """Day, tenant and bot of a counter hash's name."""
    _, _, day, tenant, bot = name.split(":", 4)
    return day, tenant, bot


def _add(counts: dict[str, int], name: str, amount: int) -> None:
    counts[name] = counts.get(name, 0) + amount
