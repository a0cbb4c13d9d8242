"""`auto`: precision follows the task, as the article has it: maths and logic at 8 bits, creative and complaints at 4.

    task          wanted  floor      why
    maths         8       8          a wrong digit is a wrong answer
    logic         8       8
    code          8       8
    facts         8       8          figures again
    support       8       4          general; may be lowered when memory is short
    complaint     4       4          tone, not figures
    creative      4       4

both kept within `floor`..`ceiling`. Inputs: task. Defaults: floor 4, ceiling 8; a classifier that is not sure says
`support`, so doubt starts at 8. Fails closed on the floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.kv_policies import KvChoice, choice, kv_bits
from services.contracts.chats import KvBits, Task

_FOUR, _EIGHT = KvBits.FOUR, KvBits.EIGHT
_BY_TASK: Mapping[Task, tuple[KvBits, KvBits]] = {
    Task.MATHS: (_EIGHT, _EIGHT),
    Task.LOGIC: (_EIGHT, _EIGHT),
    Task.CODE: (_EIGHT, _EIGHT),
    Task.FACTS: (_EIGHT, _EIGHT),
    Task.SUPPORT: (_EIGHT, _FOUR),
    Task.COMPLAINT: (_FOUR, _FOUR),
    Task.CREATIVE: (_FOUR, _FOUR),
}


class Auto:
    """`floor` and `ceiling`: 4, 8 or 16, floor <= ceiling."""

    def __init__(self, floor: int = _FOUR, ceiling: int = _EIGHT) -> None:
        self._floor, self._ceiling = kv_bits(floor, "floor"), kv_bits(ceiling, "ceiling")
        if self._floor > self._ceiling:
            raise ValueError(f"floor {floor} is above ceiling {ceiling}")

    def choose(self, task: Task, bits_available: Sequence[int], pressure: float) -> KvChoice:  # noqa: ARG002
        """By the table above."""
        wanted, floor = (min(self._ceiling, max(self._floor, value)) for value in _BY_TASK[task])
        return choice(wanted, floor, bits_available)
