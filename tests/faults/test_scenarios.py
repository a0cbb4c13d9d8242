"""Parts of a whole host fail under chats. `python -m tests.faults.harness` does the same to a thousand."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.faults.harness.scenarios import SCENARIOS, Plan, play
from tests.faults.harness.scene import HOSTS

# Faults that are known: each is mended when its test passes, and then leaves this table.
KNOWN = {
    "redis data lost": "consumer groups, registry and ready keys are made once",
}
KNOWN_S_MAX = 60.0
PLAN = Plan(count=int(os.environ.get("BUNKHOUSE_FAULTS_CHATS", "16")))


@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    """One host a kind, side by side, for they wait most of the time: what a scenario leaves is the next one's start."""
    bad = [
        line for lines in await asyncio.gather(*(_played(where, tmp_path / where) for where in HOSTS)) for line in lines
    ]
    assert not bad, "\n".join(bad)


async def _played(where: str, folder: Path) -> list[str]:
    """What went wrong on this kind of host."""
    bad = []
    async with HOSTS[where](folder) as scene:
        for name in (name for name, scenario in SCENARIOS.items() if scenario.where == where and name not in KNOWN):
            figures = await play(name, scene, PLAN)
            print(figures.line())
            if not figures.good or not figures.answered:
                bad.append(figures.line())
    return bad


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=KNOWN[name])) for name in KNOWN]
)
async def test_a_known_fault(name: str, tmp_path: Path) -> None:
    async with HOSTS[SCENARIOS[name].where](tmp_path) as scene, asyncio.timeout(KNOWN_S_MAX):
        figures = await play(name, scene, PLAN)
    assert figures.good, figures.line()
