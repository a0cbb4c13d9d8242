"""Who used a model's slots lately, and so must leave the last ones to others.

What a tenant holds now does not say it: a flood whose only chat has just ended holds nothing. So the slots that each
tenant held are averaged over the last minutes. A tenant above its fair part of that sum is *heavy*, one far below it
is *light*.
"""

from __future__ import annotations

from math import exp

MEMORY_S = 120.0  # a slot held so long ago counts 1/e
HEAVY = 1.25  # times its part: equal tenants differ by chance
HEAVY_SLOTS_MIN = 0.25  # a tenant that held less than this on average burdens nobody
LIGHT = 0.5  # times its part
BUSY_SLOTS_MIN = 0.5  # below this sum, who held how much is chance
_FORGOTTEN = 1e-3


class FadingMean:
    """The mean of a number that changes in steps, newer times weighing more. O(1)."""

    __slots__ = ("_at_s", "_mean", "now")

    def __init__(self, at_s: float) -> None:
        self.now = 0
        self._mean, self._at_s = 0.0, at_s

    def add(self, by: int, at_s: float) -> None:
        """The number changes by `by`. Times before the last one count as the last one."""
        self._mean = self.at(at_s)
        self._at_s = max(self._at_s, at_s)
        self.now += by

    def at(self, at_s: float) -> float:
        """The mean at a time that is no earlier than the last change."""
        return self.now + (self._mean - self.now) * exp(-max(0.0, at_s - self._at_s) / MEMORY_S)


class SlotUse:
    """The slots of one model. O(1), amortised."""

    __slots__ = ("_all", "_prune_at", "_tenants")

    def __init__(self, now_s: float) -> None:
        self._all = FadingMean(now_s)
        self._tenants: dict[str, FadingMean] = {}
        self._prune_at = 64

    def __len__(self) -> int:
        return len(self._tenants)

    def add(self, tenant: str, by: int, now_s: float) -> None:
        """The tenant holds so many slots more."""
        used = self._tenants.get(tenant)
        if used is None:
            self._prune(now_s)
            used = self._tenants[tenant] = FadingMean(now_s)
        used.add(by, now_s)
        self._all.add(by, now_s)

    def heavy(self, tenant: str, part: float, now_s: float) -> bool:
        """Whether the tenant, whose fair part is `part` (0..1), held more than that lately."""
        used = self._tenants.get(tenant)
        if used is None:
            return False
        mean = used.at(now_s)
        return mean >= HEAVY_SLOTS_MIN and mean > HEAVY * part * self._all.at(now_s)

    def light(self, tenant: str, part: float, now_s: float) -> bool:
        """Whether the tenant held far less than its part of a model that was busy."""
        used, busy = self._tenants.get(tenant), self._all.at(now_s)
        return busy >= BUSY_SLOTS_MIN and (used is None or used.at(now_s) < LIGHT * part * busy)

    def _prune(self, now_s: float) -> None:
        """Forget tenants whose use has faded."""
        if len(self._tenants) < self._prune_at:
            return
        self._tenants = {name: used for name, used in self._tenants.items() if used.now or used.at(now_s) > _FORGOTTEN}
        self._prune_at = max(64, 2 * len(self._tenants))
