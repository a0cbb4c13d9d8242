"""`pressure`: start high, go low when memory is short.

    wanted = high while pressure < threshold, else low;  floor = low;  demotable

Inputs: pressure (part of the engine's KV memory that is taken, 0..1). Defaults: high 8, low 4, threshold 0.85. Where
the engine can change bits live, sessions that already run are lowered too, when a chat waits for memory. Fails
closed on `low`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.kv_policies import KvChoice, choice, kv_bits
from services.contracts.chats import KvBits, Task


class Pressure:
    """`high` and `low`: 4, 8 or 16, low <= high. `threshold`: above 0, at most 1."""

    def __init__(self, high: int = KvBits.EIGHT, low: int = KvBits.FOUR, threshold: float = 0.85) -> None:
        self._high, self._low = kv_bits(high, "high"), kv_bits(low, "low")
        if self._low > self._high:
            raise ValueError(f"low {low} is above high {high}")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], not {threshold}")
        self._threshold = threshold

    def choose(self, task: Task, bits_available: Sequence[int], pressure: float) -> KvChoice:  # noqa: ARG002
        """High until memory is short."""
        wanted = self._high if pressure < self._threshold else self._low
        return choice(wanted, self._low, bits_available)
