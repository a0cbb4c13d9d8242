"""Logs of children stay short while they write."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path

from services.process.log_files import rotate, rotated_logs


def test_a_log_that_is_open_for_appending_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    with path.open("ab", buffering=0) as child:
        child.write(b"x" * 100)
        assert not rotate(path, 100)
        child.write(b"y")
        assert rotate(path, 100)
        child.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert (tmp_path / "gateway.log.1").stat().st_size == 101


async def test_logs_are_cut_before_and_within_the_block(tmp_path: Path) -> None:
    mine, other = tmp_path / "engine-m.log", tmp_path / "engine-other.log"
    mine.write_bytes(b"x" * 101)
    other.write_bytes(b"x" * 101)
    async with asyncio.timeout(10), rotated_logs(tmp_path, mine.name, 100, look_s=0.01):
        assert mine.read_bytes() == b""
        mine.write_bytes(b"y" * 102)
        while mine.stat().st_size:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (tmp_path / "engine-m.log.1").read_bytes() == b"y" * 102
    assert other.stat().st_size == 101


async def test_of_two_that_look_at_a_log_one_cuts_it(tmp_path: Path) -> None:
    path = tmp_path / "engine-m.log"
    path.write_bytes(b"x" * 101)
    with path.open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = asyncio.create_task(asyncio.to_thread(rotate, path, 100))
        await asyncio.sleep(0.1)
        other.truncate(0)
    assert not await waiting
    assert not (tmp_path / "engine-m.log.1").exists()
