"""Children die with their parent, groups die whole, and a log's end is there to be shown."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.process.children import interpreter_environment, spawn, stop, tail

TREE = """
import subprocess, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""
PARENT = """
import asyncio, sys
from pathlib import Path
from services.process.children import spawn
async def main():
    process = await spawn([sys.executable, "-c", "import time; time.sleep(60)"], None, Path(sys.argv[1]))
    print(process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def _until_gone(pid: int, within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.02)
    return False


async def _child(log: Path) -> int:
    """The process that TREE started."""
    while "child" not in tail(log):  # noqa: ASYNC110  (another process writes it)
        await asyncio.sleep(0.02)
    return int(tail(log).split()[1])


async def test_output_and_environment(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "out.log"
    code = "import os, sys; print(os.environ['WORD'], len(os.environ) < 4); print('bad', file=sys.stderr)"
    process = await spawn([sys.executable, "-c", code], {"WORD": "hello"}, log)
    assert await process.wait() == 0
    assert sorted(log.read_text().split("\n")) == ["", "bad", "hello True"]


async def test_a_second_start_appends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("one", "two"):
        await (await spawn(["echo", word], None, log)).wait()
    assert tail(log) == "one\ntwo"


async def test_program_that_is_not_there_says_so_in_the_log(tmp_path: Path) -> None:
    process = await spawn(["/nowhere/engine"], None, tmp_path / "log")
    assert await process.wait() != 0
    assert "cannot run /nowhere/engine: No such file" in tail(tmp_path / "log")


async def test_stop_kills_the_group_though_it_ignores_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await spawn([sys.executable, "-c", TREE], None, log)
    child = await _child(log)
    begin = time.monotonic()
    await stop(process, grace_s=0.3)
    assert time.monotonic() - begin < 3
    assert process.returncode == -signal.SIGKILL
    assert await _until_gone(child)
    await stop(process, grace_s=0.3)


async def test_stop_reaps_what_a_dead_leader_left(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = await spawn([sys.executable, "-c", TREE], None, log)
    child = await _child(log)
    process.kill()
    await process.wait()
    assert psutil.pid_exists(child)
    await stop(process, grace_s=0.3)
    assert await _until_gone(child)


async def test_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    await parent.wait()
    assert await _until_gone(child)


def test_tail_of_no_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""


def test_tail_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff line\n" * 100_000)
    assert tail(log, lines=3, bytes_max=1000) == "\ufffd line\n\ufffd line\n\ufffd line"


def test_another_interpreter_gets_no_python_variables_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/host/packages")
    assert interpreter_environment(None)["PYTHONPATH"] == "/host/packages"
    assert interpreter_environment(Path(sys.executable))["PYTHONPATH"] == "/host/packages"
    other = interpreter_environment(Path("/opt/sglang/bin/python"))
    assert not [name for name in other if name.startswith("PYTHON")]
    assert other["PATH"] == os.environ["PATH"]
