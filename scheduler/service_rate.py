"""How fast a model serves its queue, and so how long a ticket is expected to wait.

    chats per second = max(chats running, as a rule) / their mean duration           (Little's law)
    expected wait    = tickets ahead in the flow / (chats per second x the tenant's part of the weights that wait)

Seconds. Workers measure durations: the wall clock, by which chats are let in, may be set while they run. "As a rule" is
a mean over settlements: chats that were let in together end together, and an engine whose report is late gets no new
ones for a moment, which must not look like a slow model. Unknown (None) until a chat of the model was settled, or while
none runs; nothing is refused early then.

A stall is not the engine's pace: chats that ran before this scheduler took over are left out (what made it take over
stalled them, too), and one run counts as a few usual ones at most.
"""

from __future__ import annotations

_SMOOTHING = 0.05
_OUTLIER = 4.0  # a run counts as at most so many usual ones


class ServiceRate:
    """Mean duration of chats, per model, smoothed."""

    def __init__(self) -> None:
        self.duration_s: dict[str, float] = {}
        self._running: dict[str, float] = {}

    def settled(self, model: str, seconds: float, running: int) -> None:
        """A chat is over; `running` counts it and those that ran beside it."""
        before = self.duration_s.get(model)
        if before is None:
            self.duration_s[model] = seconds
        else:
            self.duration_s[model] = before + _SMOOTHING * (min(seconds, _OUTLIER * before) - before)
        usual = self._running.get(model, float(running))
        self._running[model] = usual + _SMOOTHING * (running - usual)

    def per_s(self, model: str, running: int) -> float | None:
        """Chats per second that the model finishes."""
        duration_s = self.duration_s.get(model)
        if not running or not duration_s:
            return None
        return max(running, self._running[model]) / duration_s


def expected_wait_s(per_s: float, ahead: int, part: float) -> float:
    """Seconds until a ticket with `ahead` before it is served, for a tenant that gets `part` of the service."""
    return (ahead + 1) / (per_s * max(part, 1e-6))
