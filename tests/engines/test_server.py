"""An engine's server process, with a few lines of Python for a server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from services.engines.server import ServerProcess

SERVER = """
import pathlib, sys, time
print("first", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print("second", flush=True)
time.sleep(60)
"""


async def test_a_log_that_is_cut_while_the_server_starts_is_read_on(tmp_path: Path) -> None:
    log, cut = tmp_path / "engine.log", tmp_path / "cut"
    log.write_text("of an earlier start\n" * 100)
    server = ServerProcess("test", log, {}, grace_s=1.0)

    async def ready(lines: list[str]) -> bool | None:
        if "first" in lines:
            os.truncate(log, 0)
            cut.touch()
        return True if "second" in lines else None

    try:
        assert await server.start([sys.executable, "-c", SERVER, str(cut)], {}, ready, lambda _: None, timeout_s=20)
    finally:
        await server.stop()
