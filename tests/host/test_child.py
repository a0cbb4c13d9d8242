"""A child that dies is started again, and given up with its last words; with real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import structlog

from services.host.child import Child, ChildState, GaveUp
from services.host.programs import CONFIG_ERROR_CODE
from services.host.restarts import Restarts
from services.process import children as process
from services.process import logs


class Script:
    """A few lines of Python as a program."""

    name = "script"

    def __init__(self, text: str, log_path: Path) -> None:
        self.log_path = log_path
        self.process: asyncio.subprocess.Process | None = None
        self._argv = [sys.executable, "-I", "-S", "-c", text]

    async def start(self) -> None:
        self.process = await process.spawn(self._argv, None, self.log_path)

    async def stop(self) -> None:
        if self.process is not None:
            await process.stop(self.process, 5.0)


def child(text: str, folder: Path) -> tuple[Child, list[ChildState]]:
    states: list[ChildState] = []
    made = Child(
        Script(text, folder / "script.log"), lambda each: states.append(each.status.state), Restarts(pause_s=0.01)
    )
    return made, states


async def test_five_deaths_are_the_end_and_its_last_lines_are_told(tmp_path: Path) -> None:
    made, states = child("print('no room on the card'); raise SystemExit(9)", tmp_path)
    with pytest.raises(GaveUp, match=r"script died 5 times within 120 s.*exit code 9") as caught:
        await made.run()
    assert str(caught.value).endswith("no room on the card")
    assert states.count(ChildState.RUNNING) == 5
    assert states[-1] is ChildState.GAVE_UP
    assert made.status.restarts == 5
    assert made.status.pid is None


async def test_a_wrong_configuration_is_not_tried_again(tmp_path: Path) -> None:
    made, states = child(f"print('bad key'); raise SystemExit({CONFIG_ERROR_CODE})", tmp_path)
    with pytest.raises(GaveUp, match=r"(?s)cannot run as it is configured.*bad key"):
        await made.run()
    assert states.count(ChildState.RUNNING) == 1


async def test_a_program_that_cannot_be_started_is_a_death_too(tmp_path: Path) -> None:
    (tmp_path / "script.log").mkdir()  # no log can be opened there
    made, _ = child("", tmp_path)
    with pytest.raises(GaveUp, match="Is a directory"):
        await made.run()


async def test_a_killed_one_comes_back_and_can_be_stopped(tmp_path: Path) -> None:
    made, states = child("import time; time.sleep(60)", tmp_path)
    running = asyncio.create_task(made.run())
    first = await pid_of(made, None)
    os.kill(first, 9)
    second = await pid_of(made, first)
    assert made.last_error == "it ended (killed by signal 9)"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await made.stop()
    await made.stop()
    assert states[-1] is ChildState.STOPPED
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


async def test_a_full_disk_ends_no_child(tmp_path: Path, unlogged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.host.child.log", structlog.get_logger())  # a used one keeps its stream
    made, states = child("import time; time.sleep(60)", tmp_path)
    with logs.log_file(Path("/dev/full")) as full:
        logs.setup("supervisor", json=True, stream=full)
        running = asyncio.create_task(made.run())
        first = await pid_of(made, None)
        os.kill(first, 9)
        await pid_of(made, first)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.stop()
    assert states[-1] is ChildState.STOPPED


async def pid_of(made: Child, other: int | None) -> int:
    """The process id once it runs as another one than `other`."""
    async with asyncio.timeout(20):
        while made.status.state is not ChildState.RUNNING or made.status.pid in (None, other):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    pid = made.status.pid
    assert pid is not None
    return pid
