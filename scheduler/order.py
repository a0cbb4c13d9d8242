"""Names in order of keys that live elsewhere and change: who has had the least service.

A key that grew is noticed when its name comes up; one that shrank must be told with `touch`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from heapq import heappop, heappush

Key = tuple[float, float, str]  # counter, last served, name


class LeastFirst:
    """Names by ascending key. Each operation is O(log n), amortised."""

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


class Order:
    """The first `size` names as a list to walk, the rest in a heap. Each operation is O(size + log n).

    No name in the rest comes before one in front, by the keys they were put there with, and the rest is empty
    unless the front is full. Keys in front may have grown since; `refresh` sorts them anew.
    """

    __slots__ = ("_key", "_keys", "_rest", "_size", "front")

    def __init__(self, key: Callable[[str], Key], size: int) -> None:
        self.front: list[Key] = []
        self._keys: dict[str, Key] = {}  # of the names in front
        self._rest = LeastFirst(key)
        self._key = key
        self._size = size

    def add(self, name: str) -> None:
        if name in self._keys or name in self._rest:
            return
        if len(self.front) >= self._size:
            if self._key(name) >= self.front[-1]:
                self._rest.add(name)
                return
            last = self.front.pop()[2]
            del self._keys[last]
            self._rest.add(last)
        self._put(name)

    def discard(self, name: str) -> None:
        key = self._keys.pop(name, None)
        if key is None:
            self._rest.discard(name)
            return
        self.front.remove(key)
        following = self._rest.pop()
        if following is not None:
            self._put(following)

    def moved(self, name: str) -> None:
        """The name's key changed."""
        if name not in self._keys:
            self.touch(name)
        elif self._key(name) != self._keys[name]:
            self._rest.add(name)
            self.discard(name)

    def touch(self, name: str) -> None:
        """The name's key may have shrunk: enough for where it is not in front."""
        if name in self._rest and self._key(name) < self.front[-1]:
            self._rest.discard(name)
            self.add(name)

    def refresh(self) -> None:
        """Sort by the keys of now."""
        for key in self.front:
            self._rest.add(key[2])
        self.front.clear()
        self._keys.clear()
        while len(self.front) < self._size and (name := self._rest.pop()) is not None:
            self._put(name)

    def _put(self, name: str) -> None:
        key = self._keys[name] = self._key(name)
        insort(self.front, key)
