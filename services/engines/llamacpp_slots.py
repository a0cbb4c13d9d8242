"""Chooses a llama.cpp slot for each chat, and says whether the chat may reuse the prefix that the slot holds.

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
    busy: bool = False


class Slots:
    """All slots of one server. Not a queue: a chat that finds none free is refused by the caller."""

    def __init__(self, count: int) -> None:
        self._empty = [Slot(number) for number in reversed(range(count))]
        # Free slots whose cells are known, the one unused for longest first: all of them, and by salt.
        self._kept: dict[int, Slot] = {}
        self._by_salt: dict[str, dict[int, Slot]] = {}

    def take(self, salt: str, prompt: Sequence[int] | str) -> tuple[Slot, bool] | None:
        """A free slot and whether its cache may be reused, or None.

        The slot of the same salt with the longest common prefix; else an empty one; else the one unused
        for longest, so that other tenants' prefixes live as long as they can.
        """
        slot = self._longest(salt, prompt)
        reuse = slot is not None
        if slot is None:
            slot = self._empty.pop() if self._empty else next(iter(self._kept.values()), None)
        if slot is None:
            return None
        self._take_out(slot)
        slot.salt, slot.prompt, slot.busy = salt, prompt, True
        return slot, reuse

    def release(self, slot: Slot, tokens: int) -> None:
        """The chat ended with `tokens` in the slot's cells. Twice is once: a slot that is free stays as it is."""
        if not slot.busy:
            return
        slot.tokens, slot.busy = tokens, False
        if slot.salt is None:
            self._empty.append(slot)
        else:
            self._kept[slot.number] = slot
            self._by_salt.setdefault(slot.salt, {})[slot.number] = slot

    def forget(self, slot: Slot) -> None:
        """The slot's contents are unknown: no chat may reuse them."""
        if not slot.busy and slot.salt is not None:
            self._take_out(slot)
            self._empty.append(slot)
        slot.salt, slot.prompt, slot.tokens = None, (), 0

    @property
    def cached_tokens(self) -> int:
        """Tokens that idle slots keep for reuse."""
        return sum(slot.tokens for slot in self._kept.values())

    def _longest(self, salt: str, prompt: Sequence[int] | str) -> Slot | None:
        best, longest = None, 0
        for slot in self._by_salt.get(salt, {}).values():
            # One look tells most that cannot be longer: they part where the best one so far did.
            if longest < min(len(slot.prompt), len(prompt)) and slot.prompt[longest] == prompt[longest]:
                common = _common(slot.prompt, prompt)
                if common > longest:
                    best, longest = slot, common
        return best

    def _take_out(self, slot: Slot) -> None:
        if slot.salt is not None:
            del self._kept[slot.number]
            same = self._by_salt[slot.salt]
            del same[slot.number]
            if not same:
                del self._by_salt[slot.salt]


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
