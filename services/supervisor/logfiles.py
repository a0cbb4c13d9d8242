"""Keeps the logs of children from filling the disk: each has at most two files of `bytes_max`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

BYTES_MAX = 32 * 2**20
LOOK_S = 30.0


async def keep_short(folder: Path, bytes_max: int = BYTES_MAX, look_s: float = LOOK_S) -> None:
    """Look at the folder's logs until cancelled."""
    while True:
        _shorten_all(folder, bytes_max)
        await asyncio.sleep(look_s)


def _shorten_all(folder: Path, bytes_max: int) -> None:
    for path in folder.glob("*.log"):
        with contextlib.suppress(OSError):  # a full disk, or a log that was just deleted: try again later
            shorten(path, bytes_max)


def shorten(path: Path, bytes_max: int) -> bool:
    """Move what a log holds to `NAME.log.1` if it is too long. Raises OSError.

    Copied, then cut: children hold the file open for appending, so a renamed one would go on growing. A line written
    between the two steps is lost.
    """
    if path.stat().st_size <= bytes_max:
        return False
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True
