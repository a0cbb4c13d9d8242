"""Names in order of keys that change: who has had the least service.

Keys live in a mapping of the caller's. One that grew is noticed when its name comes up; one that shrank, at a call of
`moved`, or at the next `refresh`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from heapq import heappop, heappush, heapreplace

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
