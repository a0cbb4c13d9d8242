"""When a child that died is started again.

    pause = min(pause_s_max, pause_s x 2 ^ (deaths within window_s - 1))

Units: seconds. Defaults: 1 s doubling to 30 s; at 5 deaths within 120 s no further try is made. A start that lived for
10 s was a good one: deaths before it count no more, so a part that is killed again and again does not end the host.
"""

from __future__ import annotations

from collections import deque

SOUND_S = 10.0


class Restarts:
    """The deaths of one child. Times come from the caller's clock."""

    def __init__(
        self, *, pause_s: float = 1.0, pause_s_max: float = 30.0, deaths_max: int = 5, window_s: float = 120.0
    ) -> None:
        self.deaths_max = deaths_max
        self.window_s = window_s
        self.total = 0
        self._pause_s = pause_s
        self._pause_s_max = pause_s_max
        self._deaths: deque[float] = deque()

    def died(self, now_s: float, lived_s: float = 0.0) -> float | None:
        """Seconds to wait before the next try; None: give up. `lived_s`: since the start that has ended now."""
        self.total += 1
        if lived_s >= SOUND_S:
            self._deaths.clear()
        self._deaths.append(now_s)
        while self._deaths[0] < now_s - self.window_s:
            self._deaths.popleft()
        if len(self._deaths) >= self.deaths_max:
            return None
        return float(min(self._pause_s_max, self._pause_s * 2 ** (len(self._deaths) - 1)))
