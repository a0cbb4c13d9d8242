"""Fair shares: a weighted virtual token counter per tenant.

    counter += (prompt - cached + cached_weight x cached + output_weight x completion) / weight

The tenant with the lowest counter goes first (Sheng et al., "Fairness in Serving Large Language
Models", OSDI 2024). An estimate is charged at admission and corrected at settlement. A tenant that begins to
wait is lifted to the lowest counter among those that wait already, less what of it is an estimate still, so
being idle earns no credit; where nobody waits, to that of the last one served. Work-conserving: a counter
orders, it never refuses. Units: prompt tokens. Defaults: weight 1, output_weight 2, cached_weight 0.1.
"""

from __future__ import annotations

from collections import OrderedDict

from scheduler.fairness_order import Key, LeastFirst
from scheduler.settings import SchedulerSettings


class Counters:
    """Virtual token counters of all tenants."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.keys: dict[str, Key] = {}  # (counter, last served, tenant): of equals, who waited longest goes first
        self._pending: dict[str, float] = {}  # of each counter, what is an estimate still
        self._served_last: str | None = None
        self._waiting = LeastFirst(self.keys)

    def value(self, tenant: str) -> float:
        """The tenant's counter."""
        key = self.keys.get(tenant)
        return key[0] if key else 0.0

    def cost(self, prompt: int, cached: int, completion: float) -> float:
        """Price of a chat in prompt tokens, before the tenant's weight."""
        settings = self.settings
        return prompt - cached + settings.cached_weight * cached + settings.output_weight * completion

    def enter(self, tenant: str) -> None:
        """The tenant begins to wait: lift it to what the others have really had, estimates left out."""
        if tenant in self._waiting.live:
            return
        least = self._waiting.peek() or self._served_last
        floor = self.value(least) - self._pending.get(least, 0.0) if least is not None else 0.0
        value, served_s, _ = self.keys.get(tenant, (0.0, 0.0, tenant))
        self.keys[tenant] = (max(value, floor), served_s, tenant)
        self._waiting.add(tenant)

    def leave(self, tenant: str) -> None:
        """The tenant waits for nothing any more."""
        self._waiting.discard(tenant)

    def admit(self, tenant: str, cost: float, now_s: float) -> float:
        """Charge an estimate. Returns what to `settle` it with: the charge at today's weight."""
        charge = cost / self.settings.share(tenant).weight
        self._pending[tenant] = self._pending.get(tenant, 0.0) + charge
        self.keys[tenant] = (self.value(tenant) + charge, now_s, tenant)
        self._served_last = tenant
        return charge

    def settle(self, tenant: str, charge: float, cost: float) -> None:
        """A chat is over: its estimate goes, what it really took stays."""
        pending = self._pending.get(tenant, 0.0) - charge
        self._pending[tenant] = pending if pending > 0.0 else 0.0
        value, served_s, _ = self.keys.get(tenant, (0.0, 0.0, tenant))
        value += cost / self.settings.share(tenant).weight - charge
        self.keys[tenant] = (value if value > 0.0 else 0.0, served_s, tenant)
        self._waiting.touch(tenant)


class ActiveTenants:
    """Which tenants asked for a model lately, and the sum of their weights. O(1), amortised."""

    __slots__ = ("_oldest_s", "_seen", "_settings", "_weights")

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._oldest_s = float("inf")  # nobody in `_seen` was seen earlier
        self._weights = 0.0

    def configure(self, settings: SchedulerSettings) -> None:
        """Other weights. They count from each tenant's next chat on."""
        self._settings = settings

    def saw(self, tenant: str, now_s: float) -> None:
        weight, seen = self._settings.share(tenant).weight, self._seen
        self._weights += weight - (seen[tenant][1] if tenant in seen else 0.0)
        seen[tenant] = (now_s, weight)
        seen.move_to_end(tenant)
        self._oldest_s = min(self._oldest_s, now_s)

    def share(self, tenant: str, now_s: float) -> float:
        """The tenant's part of the model, 0..1; 1 where no other is about."""
        settings = self._settings
        if self._oldest_s < now_s - settings.tenant_seen_s:
            self._forget(now_s - settings.tenant_seen_s, tenant)
        if len(self._seen) < 2:
            return 1.0
        return settings.share(tenant).weight / max(self._weights, 1e-9)

    def _forget(self, before_s: float, but: str) -> None:
        """Drop whom nobody saw since, up to the tenant that asks."""
        seen = self._seen
        self._oldest_s = float("inf")
        while seen:
            oldest, (at_s, weight) = next(iter(seen.items()))
            if at_s >= before_s or oldest == but:
                self._oldest_s = at_s
                break
            del seen[oldest]
            self._weights -= weight
