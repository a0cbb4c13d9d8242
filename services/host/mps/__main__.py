"""`python -m services.host.mps CONFIG`: the MPS daemons in a container of their own, until SIGTERM.

Where a GPU cannot be shared in space, this says why and stays, so that the containers beside it start: their engines
find no daemon and take turns. `memory.sharing: space` makes that an error.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import structlog
import uvloop

from services.config.host_secrets import SecretsError
from services.config.schema import ConfigError
from services.contracts.devices import MpsState
from services.host.child import Child, GaveUp
from services.host.mps.daemon import daemon_of, shared_devices
from services.process.logs import setup
from services.store.connection import QueueUnavailable
from services.store.mps_states import write_mps_states
from services.store.runtime import PATIENCE_S, Runtime, open_runtime

log = structlog.get_logger()


async def serve(runtime: Runtime) -> None:
    """Run them. Raises ConfigError, GaveUp, QueueUnavailable."""
    running: dict[Child, asyncio.Task[None]] = {}
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    stopping = asyncio.create_task(stopped.wait())
    try:
        states = {device: await _start(runtime, device, running) for device in shared_devices(runtime.config)}
        async with runtime.connect(PATIENCE_S) as connection:
            await write_mps_states(connection, states)
        done, _ = await asyncio.wait([*running.values(), stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()  # raises its error
    finally:
        stopping.cancel()
        for task in running.values():
            task.cancel()
        await asyncio.gather(stopping, *running.values(), return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in running))


async def _start(runtime: Runtime, device: str, running: dict[Child, asyncio.Task[None]]) -> MpsState:
    """Start a device's daemon, if that is possible. Raises ConfigError where it must be, and is not."""
    daemon, state = daemon_of(runtime.config, device, runtime.config.data_dir / "logs", os.environ)
    if not state.why_not:
        child = Child(daemon, lambda _: None)
        running[child] = asyncio.create_task(child.run())
        state = replace(state, why_not=await daemon.trouble())
        if state.why_not:
            running.pop(child).cancel()
            await child.stop()
    if state.why_not:
        log.warning("mps.turns", device=device, why=state.why_not)
        if runtime.config.memory.sharing == "space":
            raise ConfigError(f"memory.sharing is `space`, but {device} cannot be shared so: {state.why_not}")
    return state


def main() -> int:
    """Exit status 1 when it should be tried again, 2 when the configuration is wrong."""
    setup("mps")
    try:
        uvloop.run(serve(open_runtime(Path(sys.argv[1]))))
    except (ConfigError, SecretsError) as error:
        log.error("mps.cannot_start", why=str(error))
        return 2
    except (GaveUp, QueueUnavailable) as error:
        log.error("mps.ended", why=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
