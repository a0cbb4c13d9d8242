"""The GPU's memory bandwidth, measured once by the first worker that starts on it and kept in Redis.

A datasheet's figure is never reached, so the scheduler weighs contention with a measured one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson
import structlog

from services.process.children import mortal
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

PROBE = Path(__file__).with_name("bandwidth_probe.py")
PROBE_S_MAX = 90.0

log = structlog.get_logger()


async def ensure_measured(connection: Connection, python: Path | None) -> None:
    """Measure, unless somebody did or is about to. A probe that fails is logged; the host then runs without.

    `python` is the interpreter that has torch; None: this one. Raises QueueUnavailable.
    """
    with translated():
        if await connection.redis.exists(keys.BANDWIDTH):
            return
        if not await connection.redis.set(keys.BANDWIDTH_PROBE, "1", nx=True, ex=int(PROBE_S_MAX)):
            return
    measured = await _probe(python or Path(sys.executable))
    if measured is None:
        return
    log.info("bandwidth.measured", **measured)
    with translated():
        await connection.redis.set(keys.BANDWIDTH, orjson.dumps(measured))


async def read_measured(connection: Connection) -> float | None:
    """Bytes a second, or None where nothing was measured. Raises QueueUnavailable."""
    with translated():
        stored = await connection.redis.get(keys.BANDWIDTH)
    return float(orjson.loads(stored)["bytes_per_s"]) if stored else None


async def _probe(python: Path) -> dict[str, object] | None:
    process = await asyncio.create_subprocess_exec(
        *mortal([str(python), str(PROBE)]), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            out, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        log.warning("bandwidth.not_measured", why=f"the probe took over {PROBE_S_MAX:.0f} s")
        return None
    if process.returncode != 0:
        log.warning("bandwidth.not_measured", why=errors.decode(errors="replace").strip()[-300:])
        return None
    return dict(orjson.loads(out))
