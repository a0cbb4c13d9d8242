"""The usage report as the page of tenants shows it: a row a tenant, a bar a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from gateway.admin.schemas import UsageRow

HUES = 6


@dataclass(frozen=True, slots=True)
class Day:
    """One bar. `parts`: (hue, y, height) in percent of the tallest day, from the ground up."""

    day: str
    label: str
    tokens: int
    parts: list[tuple[int, float, float]]


@dataclass(frozen=True, slots=True)
class TenantSum:
    """What one tenant took."""

    tenant: str
    hue: int
    chats: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    gigabyte_hours: float  # of KV memory
    queue_s: float  # a chat, on average
    overflow_usd: float
    refused: int
    reasons: str


@dataclass(frozen=True, slots=True)
class UsagePage:
    """The whole report."""

    first: str
    last: str
    days: list[Day]
    tenants: list[TenantSum]
    total: TenantSum

    @classmethod
    def of(cls, rows: Sequence[UsageRow], first: str, last: str, tenants: Sequence[str] = ()) -> UsagePage:
        """From the rows of a UsageReport. `tenants`: all of the host, in its order. Colours go by it, so a tenant
        keeps its colour whoever else used something; removed tenants come after."""
        taken = {name: sum(_tokens(row) for row in rows if row.tenant == name) for name in _names(rows)}
        order = sorted(taken, key=lambda name: (-taken[name], name))
        hues = {name: place % HUES for place, name in enumerate(dict.fromkeys([*tenants, *sorted(taken)]))}
        sums = [_sum(name, hues[name], [row for row in rows if row.tenant == name]) for name in order]
        return cls(first, last, _days(rows, hues, first, last), sums, _sum("All", 0, rows))


def _names(rows: Sequence[UsageRow]) -> set[str]:
    return {str(row.tenant) for row in rows}


def _tokens(row: UsageRow) -> int:
    return row.prompt_tokens + row.completion_tokens


def _sum(name: str, hue: int, rows: Sequence[UsageRow]) -> TenantSum:
    chats = sum(row.chats for row in rows)
    refused: dict[str, int] = {}
    for row in rows:
        for reason, number in row.refused.items():
            refused[reason] = refused.get(reason, 0) + number
    reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in sorted(refused.items()))
    return TenantSum(
        tenant=name,
        hue=hue,
        chats=chats,
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        gigabyte_hours=sum(row.kv_byte_seconds for row in rows) / 3.6e12,
        queue_s=sum(row.queue_seconds for row in rows) / chats if chats else 0.0,
        overflow_usd=sum(row.overflow_usd for row in rows),
        refused=sum(refused.values()),
        reasons=reasons,
    )


def _days(rows: Sequence[UsageRow], hues: dict[str, int], first: str, last: str) -> list[Day]:
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    days = [begin + timedelta(days=number) for number in range((end - begin).days + 1)]
    by_day: dict[str, dict[str, int]] = {day.isoformat(): {} for day in days}
    for row in rows:
        taken, tenant = by_day.setdefault(str(row.day), {}), str(row.tenant)
        taken[tenant] = taken.get(tenant, 0) + _tokens(row)
    tallest = max([1, *(sum(taken.values()) for taken in by_day.values())])
    made = []
    for day in days:
        parts, ground = [], 100.0
        for tenant, tokens in sorted(by_day[day.isoformat()].items()):
            height = 100.0 * tokens / tallest
            ground -= height
            parts.append((hues[tenant], ground, height))
        made.append(Day(day.isoformat(), f"{day.day} {day:%b}", sum(by_day[day.isoformat()].values()), parts))
    return made
