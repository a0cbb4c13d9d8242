"""How many sessions of one model, and how many models, hold the latency targets.

Each trial runs real support chats for some seconds; a number holds when 95 of 100 chats had their first token
and their mean time between tokens within the targets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from services.engines.base import Engine, EngineStartError, Progress
from services.evidence.statistics import quantile

from .answer import Timed
from .bisection import Capacity, search
from .chats import ChatDriver
from .results import LatencyTargets, Settings

GOOD_SHARE = 0.95
UNDISTURBED = 0.25  # quantile of chats that other work on the machine held up least


def good_share(chats: Sequence[Timed], targets: LatencyTargets) -> float:
    """Share of chats within both targets; 0 where there is none."""
    good = sum(
        c.first_s is not None
        and c.first_s <= targets.first_token_s
        and (not c.gaps_s or mean(c.gaps_s) <= targets.inter_token_s)
        for c in chats
    )
    return good / len(chats) if chats else 0.0


async def sessions_held(
    engine: Engine, driver: ChatDriver, limit: int, targets: LatencyTargets, settings: Settings
) -> Capacity:
    """The most sessions at once on a running engine with `limit` slots."""
    tokens = settings.trial_tokens

    async def holds(number: int) -> bool:
        chats = await driver.busy(engine, number, settings.trial_s, tokens, targets.chat_s(tokens))
        return good_share(chats, targets) >= GOOD_SHARE

    return await search(holds, limit)


@dataclass(frozen=True, slots=True)
class ModelsHeld:
    """The most models at once, one chat on each, and what a second model costs the first."""

    capacity: Capacity
    contention: float | None  # lower quartile of chats' mean time between tokens at two models over that at one


async def models_held(
    engines: Sequence[Engine],
    driver: ChatDriver,
    targets: LatencyTargets,
    settings: Settings,
    progress: Progress,
) -> ModelsHeld:
    """Starts as many of `engines` as the search needs, and stops all of them. Raises EngineError."""
    started, tokens = 0, settings.trial_tokens
    between: dict[int, float] = {}

    async def holds(number: int) -> bool:
        nonlocal started
        while started < number:
            try:
                await engines[started].start(progress)
            except EngineStartError:
                return False  # the machine is full
            started += 1
        runs = await asyncio.gather(
            *(driver.busy(e, 1, settings.trial_s, tokens, targets.chat_s(tokens)) for e in engines[:number])
        )
        chats = [chat for run in runs for chat in run]
        means = sorted(mean(chat.gaps_s) for chat in chats if chat.gaps_s)
        if means:
            between[number] = quantile(means, UNDISTURBED)
        return good_share(chats, targets) >= GOOD_SHARE

    try:
        capacity = await search(holds, len(engines))
    finally:
        await asyncio.gather(*(engine.stop() for engine in engines))
    contention = between[2] / between[1] if between.keys() >= {1, 2} else None
    return ModelsHeld(capacity, contention)
