"""Which of llama.cpp's slots a chat gets, and whether it may reuse the prefix left there.

llama.cpp matches prefixes by tokens alone; it knows no salt. So the adapter names the slot of every
request, and lets a slot's cache be reused only by the salt that filled it:

    slot's last salt == the chat's   cache_prompt on   (a hit where the tokens agree)
    another salt, or none            cache_prompt off  (the slot is evaluated from its first token)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Slot:
    """`prompt` is what its cells hold, as far as the adapter knows: the last chat's prompt."""

    number: int
    salt: str | None = None
    prompt: Sequence[int] | str = ()
    tokens: int = 0
    used: int = 0  # a counter: higher is more recent
    chat: str | None = None


class Slots:
    """All slots of one server. Not a queue: a chat that finds none free is refused by the caller."""

    def __init__(self, count: int) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._uses = 0

    def take(self, chat: str, salt: str, prompt: Sequence[int] | str) -> tuple[Slot, bool] | None:
        """A free slot and whether its cache may be reused, or None.

        The slot of the same salt with the longest common prefix; else an empty one; else the one unused
        for longest, so that other tenants' prefixes live as long as they can.
        """
        free = [slot for slot in self._slots if slot.chat is None]
        if not free:
            return None
        same = [(slot, _common(slot.prompt, prompt)) for slot in free if slot.salt == salt]
        best, common = max(same, key=lambda pair: pair[1], default=(None, 0))
        reuse = best is not None and common > 0
        slot = best if best is not None and reuse else min(free, key=lambda s: (s.salt is not None, s.used))
        self._uses += 1
        slot.chat, slot.salt, slot.prompt, slot.used = chat, salt, prompt, self._uses
        return slot, reuse

    def release(self, slot: Slot, tokens: int) -> None:
        """The chat ended with `tokens` in the slot's cells."""
        slot.chat, slot.tokens = None, tokens

    def forget(self, slot: Slot) -> None:
        """Nobody may reuse what is in the slot, because nobody knows it."""
        slot.salt, slot.prompt, slot.tokens = None, (), 0

    @property
    def cached_tokens(self) -> int:
        """Tokens that idle slots keep for reuse."""
        return sum(slot.tokens for slot in self._slots if slot.chat is None)


def _common(one: Sequence[int] | str, other: Sequence[int] | str) -> int:
    """Length of the common prefix; 0 between text and ids."""
    if isinstance(one, str) is not isinstance(other, str):
        return 0
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices compare in C, so a binary search beats a loop over tokens
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
