"""How many hold: doubling until one fails, then bisection. The trial itself is passed in.

Assumes that what holds at n holds below n. Trials are noisy, so a failure may be tried again: n counts as failed
only when every try of it failed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Holds = Callable[[int], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One try of one number."""

    number: int
    held: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a search found. `holds` 0: not even one. `fails` None: the limit itself holds."""

    holds: int
    fails: int | None
    limit: int
    trials: tuple[Trial, ...]


async def search(holds: Holds, limit: int, tries: int = 2) -> Capacity:
    """The largest number in 1..limit that holds. Raises ValueError for a negative limit or no try."""
    if limit < 0 or tries < 1:
        raise ValueError(f"limit must be 0 or more and tries 1 or more, not {limit} and {tries}")
    trials: list[Trial] = []

    async def held(number: int) -> bool:
        for _ in range(tries):
            trials.append(Trial(number, await holds(number)))
            if trials[-1].held:
                return True
        return False

    best, fails = 0, None
    number = min(1, limit)
    while number > best:
        if not await held(number):
            fails = number
            break
        best, number = number, min(limit, number * 2)
    while fails is not None and fails - best > 1:
        middle = (best + fails) // 2
        if await held(middle):
            best = middle
        else:
            fails = middle
    return Capacity(best, fails, limit, tuple(trials))
