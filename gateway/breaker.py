"""When Redis does not answer, one request finds out and the others are told at once.

After a failure requests are refused for PAUSE_S without asking Redis; then one goes through as a probe, and the rest
wait for what it finds. So a Redis that hangs costs each client one short timeout at most, and never a pile of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from services.store.connection import QueueUnavailable

PAUSE_S = 0.5


class Breaker:
    """`with breaker:` around a step that needs Redis."""

    def __init__(self, clock: Callable[[], float] = monotonic, pause_s: float = PAUSE_S) -> None:
        self._clock = clock
        self._pause_s = pause_s
        self._again_s: float | None = None  # None: Redis answers

    def __enter__(self) -> None:
        if self._again_s is None:
            return
        now_s = self._clock()
        if now_s < self._again_s:
            raise QueueUnavailable("Redis did not answer a moment ago")
        self._again_s = now_s + self._pause_s  # this one is the probe

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._again_s = None
        elif isinstance(error, QueueUnavailable):
            self._again_s = self._clock() + self._pause_s
