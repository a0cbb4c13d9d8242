"""Parts of a whole host fail under chats. `python -m benchmarks.faults` does the same to a thousand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.faults.scenarios import SCENARIOS, Plan, play
from benchmarks.faults.scene import behind_engine_proxy, behind_proxy, supervised

PLAN = Plan(count=int(os.environ.get("BUNKHOUSE_FAULTS_CHATS", "16")))
PLACES = {"up": supervised, "redis": behind_proxy, "engine": behind_engine_proxy}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", PLACES)
async def test_nothing_is_lost_and_nothing_doubled(where: str, tmp_path: Path) -> None:
    """One host a kind: what one scenario leaves behind, the next one starts with."""
    names = [name for name, scenario in SCENARIOS.items() if scenario.where == where]
    bad = []
    async with PLACES[where](tmp_path) as scene:
        for name in names:
            figures = await play(name, scene, PLAN)
            print(figures.line())
            if not figures.good or not figures.answered:
                bad.append(figures.line())
    assert not bad, "\n".join(bad)
