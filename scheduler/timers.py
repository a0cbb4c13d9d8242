"""Timers: what is to be done when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush


class Timers:
    """A timer cannot be taken back: whoever set it checks whether it still counts. O(log n) each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, str]] = []

    def at(self, when_s: float, what: str, name: str) -> None:
        heappush(self._heap, (when_s, what, name))

    def due(self, now_s: float) -> Iterator[tuple[str, str]]:
        """(what, name) of all that are due, earliest first. Timers set meanwhile for now count too."""
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            _, what, name = heappop(heap)
            yield what, name

    def prune(self, counts: Callable[[str], bool], live: int) -> None:
        """Drop timers whose name no longer counts, once they are most of what is here."""
        if len(self._heap) > 4 * live + 4096:
            self._heap[:] = [timer for timer in self._heap if counts(timer[2])]
            heapify(self._heap)

    def next_s(self) -> float | None:
        return self._heap[0][0] if self._heap else None
