"""An engine that hangs under its chats is started anew once, not once more for every chat that it took down."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.faults.harness.client import Outcome
from tests.faults.harness.load import Load, jobs
from tests.faults.harness.scene import MODEL, supervised


@pytest.mark.timeout(300)
async def test_one_hang_is_one_restart(tmp_path: Path) -> None:
    """The chats that fail as the old server is stopped used to count against the new one."""
    async with supervised(tmp_path) as scene:
        load = Load(scene.client(), jobs(12, 50.0, "hang", tokens=(64,)))
        await load.streaming()
        await asyncio.sleep(0.5)
        (await scene.find("services.engines.llamacpp_server")).send_signal(signal.SIGSTOP)
        observed = await load.all()
        log = (tmp_path / "data" / "logs" / f"worker-{MODEL}.log").read_text()
    assert {one.outcome for one in observed} == {Outcome.ANSWERED}
    assert log.count('"event":"engine.died"') == 1
