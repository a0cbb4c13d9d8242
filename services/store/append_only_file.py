"""The cut behind the last whole command of an append-only file.

A power cut can leave zero bytes, or a torn block, behind what was written. Redis does not start on them, and the tool
that it names is not in the wheel.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES_MAX = 1 << 20  # of bytes other than zeros: more than that is damage in the middle of the file
_REFUSAL = re.compile(r"Bad file format reading the append only file (\S+?):")
_LINE_BYTES_MAX = 1024


class Damaged(Exception):
    """The file is not only torn at its end. The message says what an operator can do."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What was taken off a file, and where it is kept."""

    file: Path
    kept: Path
    length: int

    def __str__(self) -> str:
        return (
            f"Redis: the last {self.length:,} bytes of {self.file.name} could not be read and were cut; they are kept "
            f"in {self.kept}. A power cut leaves such bytes; what was written in its last seconds may be lost."
        )


def refused_file(log: str) -> str | None:
    """The append-only file that Redis names in its log as unreadable."""
    found = _REFUSAL.findall(log)
    return Path(found[-1]).name if found else None


def cut_tail(file: Path, keep_in: Path) -> Cut:
    """Cut what cannot be read off the end of `file`. Raises Damaged, OSError."""
    whole = readable_bytes(file)
    with file.open("r+b") as stream:
        stream.seek(whole)
        tail = stream.read()
        if len(tail) > TAIL_BYTES_MAX and tail.strip(b"\0"):
            raise Damaged(
                f"{file} is damaged at byte {whole}, and {len(tail):,} bytes follow. Restore it from a backup; or give "
                f"up what follows, with `truncate -s {whole} {file}`, and start again."
            )
        kept = keep_in / f"{file.name}.cut-at-{whole}"
        kept.write_bytes(tail)
        stream.truncate(whole)
    return Cut(file, kept, len(tail))


def readable_bytes(file: Path) -> int:
    """The length of the whole commands at the file's beginning."""
    if not file.stat().st_size:
        return 0
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while at < len(data):
            try:
                at = _command_end(data, at)
            except ValueError:
                break
        return at


def _command_end(data: mmap.mmap, at: int) -> int:
    """Raises ValueError where no whole command or annotation begins at `at`."""
    if data[at : at + 1] == b"#":
        return _line_end(data, at) + 2
    count, at = _number(data, at, b"*")
    for _ in range(count):
        length, at = _number(data, at, b"$")
        at += length + 2
        if data[at - 2 : at] != b"\r\n":
            raise ValueError
    return at


def _number(data: mmap.mmap, at: int, kind: bytes) -> tuple[int, int]:
    end = _line_end(data, at)
    if data[at : at + 1] != kind or (number := int(data[at + 1 : end])) < 0:
        raise ValueError
    return number, end + 2


def _line_end(data: mmap.mmap, at: int) -> int:
    if (end := data.find(b"\r\n", at, at + _LINE_BYTES_MAX)) < 0:
        raise ValueError
    return end
