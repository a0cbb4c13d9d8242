"""What a worker says of its engine."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.engines.base import Engine, Progress
from services.worker.engine_supervisor import EngineSupervisor
from tests.scheduler.kit import NOW_S, facts


class Told:
    """An engine whose figures were measured at `at_s`."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    async def report(self) -> EngineReport:
        return EngineReport("m", self.at_s, EngineState.READY, running=3)


@pytest.mark.parametrize(("measured_s", "said_s"), [(NOW_S - 30, NOW_S - 30), (NOW_S + 30, NOW_S)])
async def test_figures_stay_as_old_as_the_engine_says(measured_s: float, said_s: float) -> None:
    """They became new on the way: an engine whose scheduler stood still was taken for one that reports."""
    supervisor = EngineSupervisor(cast(Engine, Told(measured_s)), "m", lambda _: None, lambda: NOW_S)
    supervisor.open(facts())
    report = await supervisor.report()
    assert (report.at_s, report.running) == (said_s, 3)


class Hanging(Told):
    """It is put to rest while somebody waits for it to answer."""

    def __init__(self) -> None:
        super().__init__(NOW_S)
        self.started, self.looked, self.rested = 0, asyncio.Event(), asyncio.Event()

    async def alive(self) -> bool:
        self.looked.set()
        await self.rested.wait()
        return False

    async def stop(self) -> None:
        self.rested.set()

    async def start(self, _: Progress) -> EngineFacts:
        self.started += 1
        return facts()


async def test_an_engine_put_to_rest_while_it_was_looked_after_stays_there() -> None:
    engine = Hanging()
    supervisor = EngineSupervisor(cast(Engine, engine), "m", lambda _: None, lambda: NOW_S)
    supervisor.open(facts())
    supervisor._dead.set()
    watching = asyncio.create_task(supervisor.watch())
    await engine.looked.wait()
    async with supervisor.changing:
        await supervisor.suspend(EngineState.DOWN)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    watching.cancel()
    assert (engine.started, supervisor.suspended) == (0, True)


async def test_an_engine_says_since_when_it_is_up() -> None:
    """Equal facts do not tell one that was started anew, whose cache is empty."""
    now_s = NOW_S
    supervisor = EngineSupervisor(cast(Engine, Told(NOW_S)), "m", lambda _: None, lambda: now_s)
    supervisor.open(facts())
    first = await supervisor.report()
    now_s += 60
    assert (await supervisor.report()).up_since_s == first.up_since_s
    supervisor.open(facts())
    assert (await supervisor.report()).up_since_s == first.up_since_s + 60
