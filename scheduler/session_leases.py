"""Leases: a session that was let in keeps its place between turns.

While a chat of a session runs, and `session_idle_s` after it, the session's next turns go before the
tenant's new sessions and are not refused early. A lease holds no bytes: what it keeps of the
conversation is the engine's prefix cache, which is reclaimable.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(slots=True)
class Lease:
    """A session's place. `tokens` is how much of it the engine saw last."""

    running: int = 0
    until_s: float = 0.0
    tokens: int = 0


class SessionLeases:
    """Leases by (tenant, session). Each operation is O(log n), amortised."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, str], Lease] = {}
        self._ends: list[tuple[float, tuple[str, str]]] = []

    def __len__(self) -> int:
        return len(self._leases)

    def begin(self, tenant: str, session: str) -> None:
        """A chat of the session was let in."""
        self._lease((tenant, session)).running += 1

    def _lease(self, key: tuple[str, str]) -> Lease:
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = Lease()
        return lease

    def end(self, tenant: str, session: str, until_s: float, tokens: int) -> None:
        """A chat of the session is done; the lease runs until `until_s`."""
        key = (tenant, session)
        lease = self._lease(key)
        if lease.running > 0:
            lease.running -= 1
        lease.until_s = max(lease.until_s, until_s)
        if tokens:
            lease.tokens = tokens
        heappush(self._ends, (until_s, key))

    def drop(self, tenant: str, session: str) -> None:
        """A chat that was let in never ran: no lease comes from it."""
        key = (tenant, session)
        lease = self._leases.get(key)
        if lease is not None:
            lease.running -= 1
            heappush(self._ends, (lease.until_s, key))

    def held(self, tenant: str, session: str, now_s: float) -> Lease | None:
        """The session's lease, if it has one now."""
        while self._ends and self._ends[0][0] < now_s:
            _, key = heappop(self._ends)
            lease = self._leases.get(key)
            if lease is not None and not lease.running and lease.until_s < now_s:
                del self._leases[key]
        return self._leases.get((tenant, session))
