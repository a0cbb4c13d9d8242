"""A GPU's memory bandwidth, measured once by the first worker that starts on it (`memory_speed`: the machine's own).

A datasheet's figure is never reached, so the scheduler weighs contention with a measured one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson
import structlog

from services.contracts.devices import DeviceBandwidth
from services.process.children import interpreter_environment, mortal

PROBE = Path(__file__).with_name("bandwidth_probe.py")
PROBE_S_MAX = 90.0

log = structlog.get_logger()


async def measure(index: int, python: Path | None) -> DeviceBandwidth | None:
    """Run the probe on the GPU at `index`; None where it fails, which is logged: the host then runs without.

    `python` is the interpreter that has torch; None: this one.
    """
    process = await asyncio.create_subprocess_exec(
        *mortal([str(python or sys.executable), str(PROBE), str(index)]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=interpreter_environment(python),
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
    measured = DeviceBandwidth(**orjson.loads(out))
    log.info("bandwidth.measured", device=measured.name, bytes_per_s=measured.bytes_per_s)
    return measured
