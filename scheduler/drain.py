"""How fast a model's queue drains, and so how long a ticket is expected to wait.

    drain per second = chats running / their mean duration           (Little's law)
    expected wait    = tickets ahead in the lane / (drain x the tenant's part of the weights that wait)

Seconds. Unknown (None) until a chat of the model was settled, or while none runs; nothing is refused
early then.
"""

from __future__ import annotations

_SMOOTHING = 0.05


class Drain:
    """Mean duration of chats, per model, smoothed."""

    def __init__(self) -> None:
        self.duration_s: dict[str, float] = {}

    def settled(self, model: str, seconds: float) -> None:
        before = self.duration_s.get(model)
        self.duration_s[model] = seconds if before is None else before + _SMOOTHING * (seconds - before)

    def per_s(self, model: str, running: int) -> float | None:
        """Chats per second that the model lets go of."""
        duration_s = self.duration_s.get(model)
        if not running or not duration_s:
            return None
        return running / duration_s


def expected_wait_s(per_s: float, ahead: int, part: float) -> float:
    """Seconds until a ticket with `ahead` before it is served, for a tenant that gets `part` of the drain."""
    return (ahead + 1) / (per_s * max(part, 1e-6))
