"""`fixed`: always the same bits, whatever the task and the pressure.

    wanted = floor = bits

Inputs: none. Defaults: bits 16, as if nothing was quantized. Fails closed: never served lower.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.kv_policies import KvChoice, choice, kv_bits
from services.contracts.chats import KvBits, Task


class Fixed:
    """`bits`: 4, 8 or 16."""

    def __init__(self, bits: int = KvBits.SIXTEEN) -> None:
        self._bits = kv_bits(bits, "bits")

    def choose(self, task: Task, bits_available: Sequence[int], pressure: float) -> KvChoice:  # noqa: ARG002
        """The same for every chat. An engine that holds only more bits serves it at those."""
        wanted, floor, _ = choice(self._bits, self._bits, bits_available)
        return KvChoice(wanted, floor, demotable=False)
