"""Parts of a whole host fail under chats. `python -m tests.faults.harness` does the same to a thousand."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.faults.harness.scenarios import SCENARIOS, Plan, play
from tests.faults.harness.scene import HOSTS

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
        for name in (name for name, scenario in SCENARIOS.items() if scenario.where == where):
            figures = await play(name, scene, PLAN)
            print(figures.line())
            if not figures.good or not figures.answered:
                bad.append(figures.line())
    return bad
