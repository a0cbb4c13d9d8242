"""Who owns which slot: one pool for high planes and low planes.

Slots 1 to `size` are free, or the high plane of a token, or the low plane of a token (named by ``low_of`` at its high
slot). Lists of slots live on the device and only their lengths are known here, so that nothing waits for the GPU in
the ordinary course: low planes of released tokens are set aside unread, and counted only when free slots run short.
"""

from __future__ import annotations

import torch


class SlotPool:
    """Hands out slots 1 to `size`. `low_of` (size + 1) int32 is the planes' table; the pool is its one writer."""

    def __init__(self, size: int, low_of: torch.Tensor) -> None:
        self.size, self.low_of = size, low_of
        self.clear()

    def clear(self) -> None:
        """Forget every owner."""
        self.free = torch.arange(1, self.size + 1, dtype=torch.int64, device=self.low_of.device)
        self.low_of.fill_(-1)
        self._unread: list[torch.Tensor] = []
        self.high_used = 0

    def collect(self) -> None:
        """Return the low planes of released tokens to the free list. Waits for the device."""
        if self._unread:
            lows = torch.cat(self._unread)
            self._unread = []
            self.free = torch.cat((self.free, lows[lows >= 0].long()))

    def _take(self, count: int) -> torch.Tensor | None:
        if count > self.free.shape[0]:
            self.collect()
        if count > self.free.shape[0]:
            return None
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def alloc(self, count: int) -> torch.Tensor | None:
        """High slots (count) int64 for new tokens, without low planes; None where free slots do not suffice."""
        slots = self._take(count)
        if slots is not None:
            self.high_used += count
        return slots

    def release(self, slots: torch.Tensor) -> None:
        """Take back tokens `slots` (n) int64, each named once, with their low planes."""
        self._unread.append(self.low_of[slots])
        self.low_of[slots] = -1
        self.free = torch.cat((self.free, slots))
        self.high_used -= slots.shape[0]

    def grant_low(self, slots: torch.Tensor) -> int:
        """Give a low plane to the tokens `slots` (n) int64, before they are stored; returns how many got one.

        The first ones get it where free slots do not suffice for all.
        """
        count = int(slots.shape[0])
        if count > self.free.shape[0]:
            self.collect()
        count = min(count, int(self.free.shape[0]))
        lows = self._take(count)
        if lows is not None and count:
            self.low_of[slots[:count]] = lows.int()
        return count

    def drop_low(self, slots: torch.Tensor, spare: torch.Tensor | None = None) -> int:
        """Free the low planes of tokens `slots` (n) int64, but of none in `spare` (m) int64; repeats allowed in both.

        Returns how many came free. Waits for the device. What is spared is not touched: a step in flight reads it.
        """
        chosen = torch.zeros_like(self.low_of, dtype=torch.bool).index_fill_(0, slots, True)
        if spare is not None:
            chosen.index_fill_(0, spare, False)
        slots = (chosen & (self.low_of >= 0)).nonzero().flatten()
        self.free = torch.cat((self.free, self.low_of[slots].long()))
        self.low_of[slots] = -1
        return int(slots.shape[0])

    def low_used(self) -> int:
        """Slots that hold a low plane. Waits for the device."""
        return int((self.low_of >= 0).sum())

    def check_integrity(self, highs: torch.Tensor) -> None:
        """Raise AssertionError unless free slots, tokens `highs` and low planes are the whole pool, each slot once."""
        self.collect()
        lows = self.low_of[self.low_of >= 0].long()
        every = torch.cat((self.free, highs.to(self.free), lows)).sort().values
        whole = torch.arange(1, self.size + 1, device=every.device)
        if not torch.equal(every, whole):
            raise AssertionError(f"slots do not add up: {every.shape[0]} owned or free, {self.size} exist")
        if highs.shape[0] != self.high_used:
            raise AssertionError(f"{self.high_used} high slots counted, {highs.shape[0]} known")
