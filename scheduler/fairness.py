"""Fair shares: a weighted virtual token counter per tenant.

    counter += (prompt - cached + cached_weight x cached + output_weight x completion) / weight

The tenant with the lowest counter goes first (Sheng et al., "Fairness in Serving Large Language
Models", OSDI 2024). An estimate is charged at admission and corrected at settlement. A tenant that
begins to wait is lifted to the lowest counter among those that wait already, so being idle earns no
credit; where nobody waits, to the counter of the last one served. Work-conserving: a counter orders,
it never refuses. Units: prompt tokens. Defaults: weight 1, output_weight 2, cached_weight 0.1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush

from scheduler.settings import SchedulerSettings

Key = tuple[float, float, str]


class LeastFirst:
    """Names by ascending key, where keys live elsewhere and change. Each operation is O(log n), amortised.

    A key that grew is noticed when its name comes up; one that shrank must be told with `touch`.
    """

    __slots__ = ("_heap", "_key", "_live")

    def __init__(self, key: Callable[[str], Key]) -> None:
        self._key = key
        self._heap: list[Key] = []
        self._live: dict[str, Key] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, name: str) -> bool:
        return name in self._live

    def add(self, name: str) -> None:
        if name not in self._live:
            key = self._live[name] = self._key(name)
            heappush(self._heap, key)

    def discard(self, name: str) -> None:
        self._live.pop(name, None)

    def touch(self, name: str) -> None:
        """The name's key may have shrunk."""
        if name in self._live:
            key = self._key(name)
            if key < self._live[name]:
                self._live[name] = key
                heappush(self._heap, key)

    def peek(self) -> str | None:
        """The name with the least key, or None."""
        while self._heap:
            key = self._heap[0]
            name = key[2]
            if self._live.get(name) != key:
                heappop(self._heap)
                continue
            now = self._key(name)
            if now <= key:
                return name
            heappop(self._heap)
            self._live[name] = now
            heappush(self._heap, now)
        return None

    def pop(self) -> str | None:
        """Take the name with the least key out, or None."""
        name = self.peek()
        if name is not None:
            heappop(self._heap)
            del self._live[name]
        return name


class Counters:
    """Virtual token counters of all tenants."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.values: dict[str, float] = {}
        self._served_s: dict[str, float] = {}
        self._waiting = LeastFirst(self.key)
        self._last_served = 0.0

    def key(self, tenant: str) -> Key:
        """Order of service. Equal counters: the one that was served longest ago goes first."""
        return self.values.get(tenant, 0.0), self._served_s.get(tenant, 0.0), tenant

    def cost(self, prompt: int, cached: int, completion: float) -> float:
        """Price of a chat in prompt tokens, before the tenant's weight."""
        settings = self.settings
        return prompt - cached + settings.cached_weight * cached + settings.output_weight * completion

    def enter(self, tenant: str) -> None:
        """The tenant begins to wait: lift it to where the others are."""
        if tenant in self._waiting:
            return
        least = self._waiting.peek()
        floor = self.values[least] if least is not None else self._last_served
        self.values[tenant] = max(self.values.get(tenant, 0.0), floor)
        self._waiting.add(tenant)

    def leave(self, tenant: str) -> None:
        """The tenant waits for nothing any more."""
        self._waiting.discard(tenant)

    def charge(self, tenant: str, cost: float, now_s: float | None = None) -> None:
        """Add to a counter; a negative cost gives back. `now_s`: the tenant was served just now."""
        value = max(0.0, self.values.get(tenant, 0.0) + cost / self.settings.share(tenant).weight)
        self.values[tenant] = value
        if now_s is not None:
            self._served_s[tenant] = now_s
            self._last_served = value
        elif cost < 0:
            self._waiting.touch(tenant)


class Present:
    """Which tenants asked for a model lately, and the sum of their weights. O(1), amortised."""

    __slots__ = ("_seen", "_settings", "_weights")

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._weights = 0.0

    def configure(self, settings: SchedulerSettings) -> None:
        """Other weights. They count from each tenant's next chat on."""
        self._settings = settings

    def saw(self, tenant: str, now_s: float) -> None:
        weight = self._settings.share(tenant).weight
        _, before = self._seen.pop(tenant, (0.0, 0.0))
        self._weights += weight - before
        self._seen[tenant] = (now_s, weight)

    def share(self, tenant: str, now_s: float) -> float:
        """The tenant's part of the model, 0..1; 1 where no other is about."""
        seen = self._seen
        while seen:
            oldest, (at_s, weight) = next(iter(seen.items()))
            if at_s >= now_s - self._settings.tenant_seen_s or oldest == tenant:
                break
            del seen[oldest]
            self._weights -= weight
        if len(seen) < 2:
            return 1.0
        return self._settings.share(tenant).weight / max(self._weights, 1e-9)
