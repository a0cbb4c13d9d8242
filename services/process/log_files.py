"""Rotates the logs of children, so that they do not fill the disk: each has at most two files of `bytes_max`.

The supervisor rotates all logs of its host. A worker rotates its engine's, because it may run without a supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

BYTES_MAX = 32 * 2**20
LOOK_S = 30.0


@asynccontextmanager
async def rotated_logs(
    folder: Path, names: str = "*.log", bytes_max: int = BYTES_MAX, look_s: float = LOOK_S
) -> AsyncIterator[None]:
    """Rotate the folder's logs of these names (a glob pattern) before this block, and every `look_s` within it."""
    await asyncio.to_thread(_rotate_all, folder, names, bytes_max)
    looking = asyncio.create_task(_look(folder, names, bytes_max, look_s))
    try:
        yield
    finally:
        looking.cancel()


async def _look(folder: Path, names: str, bytes_max: int, look_s: float) -> None:
    while True:
        await asyncio.sleep(look_s)
        await asyncio.to_thread(_rotate_all, folder, names, bytes_max)


def _rotate_all(folder: Path, names: str, bytes_max: int) -> None:
    for path in folder.glob(names):
        with contextlib.suppress(OSError):  # a full disk, or a log that was just deleted: try again later
            rotate(path, bytes_max)


def rotate(path: Path, bytes_max: int) -> bool:
    """Move a log's content to `NAME.log.1` if it is too long; whether it was. Raises OSError.

    It is copied, then cut: children append to the open file, so a renamed one would go on growing. A line that is
    written between the two steps is lost.
    """
    with path.open("rb+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)  # of supervisor and worker, the second would overwrite the first one's copy
        if os.fstat(log.fileno()).st_size <= bytes_max:
            return False
        with path.with_name(f"{path.name}.1").open("wb") as old:
            shutil.copyfileobj(log, old)
        log.truncate(0)
    return True
