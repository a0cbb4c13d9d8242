"""Running counts for the live display: cheap to keep, bounded in memory."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from .record import ChatRecord, Result

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
