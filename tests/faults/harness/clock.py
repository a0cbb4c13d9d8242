"""The wall clock of one host's processes, which a scenario sets while they run (clock.c)."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """Made in `folder`, with gcc. Start the host with `environ`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "clock.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(library), str(SOURCE), "-ldl"], check=True, timeout=60
        )
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("q", 0))
        self.environ = {"LD_PRELOAD": str(library), "BUNKHOUSE_FAULTS_CLOCK": str(self._file)}

    def set(self, off_s: int) -> None:
        """Be so many seconds ahead of the machine's clock; behind it where negative."""
        with self._file.open("r+b") as file:  # in place: the host's processes have mapped it
            file.write(struct.pack("q", off_s))
