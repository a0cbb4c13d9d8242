"""Fair shares of service and of slots, and the order that they give tenants.

**Service.** A weighted virtual token counter per tenant:

    counter += (prompt - cached + cached_weight x cached + output_weight x completion) / weight

The tenant with the lowest counter goes first (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). An
estimate is charged at admission and corrected at settlement. A tenant that begins to wait is lifted to the lowest
counter among those that wait already, less what of it is an estimate still, so being idle earns no credit; where nobody
waits, to that of the last one served. Work-conserving: a counter orders, it never refuses. Units: prompt tokens.
Defaults: weight 1, output_weight 2, cached_weight 0.1.

**Slots.** Who used a model's slots lately must leave the last ones to others. What a tenant holds now does not say it:
a flood whose only chat has just ended holds nothing. So the slots that each tenant held are averaged over the last
minutes. A tenant above its fair part of that sum is *heavy*, one far below it is *light*.

**Order.** Names by keys that change. Keys live in a mapping of the caller's. One that grew is noticed when its name
comes up; one that shrank, at a call of `moved`, or at the next `refresh`.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Mapping
from heapq import heappop, heappush, heapreplace
from math import exp

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
        """The mean at a time at or after the last change."""
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


Key = tuple[float, float, str]  # counter, last served, name


class LeastFirst:
    """Names by ascending key. Each operation is O(log n), amortised."""

    __slots__ = ("_heap", "_keys", "live")

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self.live: dict[str, Key] = {}  # each name, with the key it was put into the heap with
        self._keys = keys
        self._heap: list[Key] = []

    def __len__(self) -> int:
        return len(self.live)

    def add(self, name: str) -> None:
        if name not in self.live:
            key = self.live[name] = self._keys[name]
            heappush(self._heap, key)

    def discard(self, name: str) -> None:
        self.live.pop(name, None)

    def touch(self, name: str) -> None:
        """The name's key may have shrunk."""
        before, key = self.live.get(name), self._keys[name]
        if before is not None and key < before:
            self.live[name] = key
            heappush(self._heap, key)

    def peek(self) -> str | None:
        """The name with the least key, or None."""
        while self._heap:
            key = self._heap[0]
            name = key[2]
            if self.live.get(name) is not key:
                heappop(self._heap)
                continue
            now = self._keys[name]
            if now <= key:
                return name
            self.live[name] = now
            heapreplace(self._heap, now)
        return None

    def pop(self) -> str | None:
        """Take the name with the least key out, or None."""
        name = self.peek()
        if name is not None:
            heappop(self._heap)
            del self.live[name]
        return name

    def exchange(self, name: str) -> str:
        """Put a new name in, take the name with the least key out: the same one, if that is it."""
        key, heap = self._keys[name], self._heap
        while heap and heap[0] < key:
            least = heap[0]
            other = least[2]
            if self.live.get(other) is not least:
                heappop(heap)
                continue
            now = self._keys[other]
            taken = now <= least
            if taken:
                del self.live[other]
                other, now = name, key
            self.live[other] = now
            heapreplace(heap, now)
            if taken:
                return least[2]
        return name


class FairnessOrder:
    """The first `size` names as a list to walk, the rest in a heap. Each operation is O(size + log n).

    By the keys they were put in with, no name in the rest comes before one in front; the rest is empty unless the
    front is full.
    """

    __slots__ = ("_keys", "_placed", "_rest", "_size", "front")

    def __init__(self, keys: Mapping[str, Key], size: int) -> None:
        self.front: list[Key] = []
        self._placed: dict[str, Key] = {}  # the names in front
        self._rest = LeastFirst(keys)
        self._keys = keys
        self._size = size

    def add(self, name: str) -> None:
        if name in self._placed or name in self._rest.live:
            return
        if len(self.front) >= self._size:
            if self._keys[name] >= self.front[-1]:
                self._rest.add(name)
                return
            last = self.front.pop()[2]
            del self._placed[last]
            self._rest.add(last)
        self._put(name)

    def discard(self, name: str) -> None:
        key = self._placed.pop(name, None)
        if key is None:
            self._rest.discard(name)
            return
        self.front.remove(key)
        following = self._rest.pop()
        if following is not None:
            self._put(following)

    def moved(self, name: str) -> None:
        """The name's key changed. Names that are not here: nothing happens."""
        placed = self._placed.get(name)
        if placed is not None:
            if placed is not self._keys[name]:
                self.front.remove(placed)
                del self._placed[name]
                self._put(self._rest.exchange(name))
        elif name in self._rest.live:
            if self._keys[name] < self.front[-1]:
                self._rest.discard(name)
                self.add(name)
            else:
                self._rest.touch(name)

    def refresh(self) -> None:
        """Sort by the keys of now. O(n log n)."""
        keys = sorted(self._keys[name] for name in [*self._placed, *self._rest.live])
        self.front[:] = keys[: self._size]
        self._placed = {key[2]: key for key in self.front}
        self._rest = LeastFirst(self._keys)
        for key in keys[self._size :]:
            self._rest.add(key[2])

    def _put(self, name: str) -> None:
        key = self._placed[name] = self._keys[name]
        insort(self.front, key)
