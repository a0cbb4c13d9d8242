"""A program beside the worker measures the card: without it the worker goes on, and it never outlives the worker."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil

from services.contracts.devices import CPU, DeviceBandwidth
from services.devices.bandwidth import measure
from services.devices.memory_speed import measure_memory
from services.store import redis_keys as keys
from services.store.bandwidth import ensure_measured, read_measured
from services.store.connection import connect

WORKER = """
import asyncio, sys
from pathlib import Path
from functools import partial
from services.devices.bandwidth import measure
from services.store.bandwidth import ensure_measured
from services.store.connection import connect
async def main():
    async with connect(sys.argv[1]) as connection:
        await ensure_measured(connection, "gpu0", partial(measure, 0, Path(sys.argv[2])), 60)
asyncio.run(main())
"""


def interpreter(path: Path, does: str) -> Path:
    """A program in an interpreter's place."""
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_what_it_measured_is_kept(redis_url: str, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", """echo '{"name": "a card", "bytes_per_s": 2e12}'""")
    async with connect(redis_url) as connection:
        await ensure_measured(connection, "gpu1", partial(measure, 1, python), 60)
        assert await read_measured(connection) == {"gpu1": 2e12}


async def test_another_machine_is_measured_anew(redis_url: str) -> None:
    async def measured(name: str, bytes_per_s: float) -> DeviceBandwidth:
        return DeviceBandwidth(name, bytes_per_s)

    async with connect(redis_url) as connection:
        await connection.redis.hset(keys.BANDWIDTHS, CPU, b'{"gpu": "of an earlier version", "bytes_per_s": 1}')
        assert await read_measured(connection) == {}
        for name, bytes_per_s, kept in (("a", 1e10, 1e10), ("a", 2e10, 1e10), ("b", 3e10, 3e10)):
            await ensure_measured(connection, CPU, partial(measured, name, bytes_per_s), 60, name)
            assert await read_measured(connection) == {CPU: kept}
            await connection.redis.delete(keys.bandwidth_probe(CPU))


def test_the_machines_memory_is_measured_within_a_second_or_two() -> None:
    begin_s = time.monotonic()
    measured = measure_memory()
    assert 1e8 < measured.bytes_per_s < 1e13
    assert measured.name.endswith("cores")
    assert time.monotonic() - begin_s < 20, "on a machine with other work, too"


async def test_an_interpreter_that_is_not_there_ends_no_worker(redis_url: str, tmp_path: Path) -> None:
    async with connect(redis_url) as connection:
        await ensure_measured(connection, "gpu0", partial(measure, 0, tmp_path / "python"), 60)
        assert await read_measured(connection) == {}


def test_a_killed_worker_leaves_no_probe(redis_url: str, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    python = interpreter(tmp_path / "python", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 60")
    worker = subprocess.Popen([sys.executable, "-c", WORKER, redis_url, python])
    try:
        until = time.monotonic() + 30
        while not pid_file.exists():
            assert time.monotonic() < until, "the probe was not started"
            time.sleep(0.02)
        probe = psutil.Process(int(pid_file.read_text()))
    finally:
        os.kill(worker.pid, signal.SIGTERM)
        worker.wait(10)
    probe.wait(5)
