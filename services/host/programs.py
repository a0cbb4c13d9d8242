"""The programs of a host, in the order in which they stop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from services.config.schema import Config
from services.process import children as process

CONFIG_ERROR_CODE = 2  # exit status of our programs when the configuration is wrong
ENGINE_ERROR_CODE = 3  # of a worker whose engine did not come up in all of its tries; it has tried often enough
SCHEDULER_STOP_S_MAX = 5.0
ENGINE_STOP_S_MAX = 10.0
JOBS_STOP_S_MAX = 10.0
DRAIN_MARGIN_S = 2.0


class Program(Protocol):
    """Something that runs as a child process."""

    name: str
    log_path: Path
    process: asyncio.subprocess.Process | None

    async def start(self) -> None:
        """Raises OSError, EmbeddedRedisError."""

    async def stop(self) -> None:
        """Safe to call twice, and before `start`."""


class PythonProgram:
    """`python -m COMMAND` with the host's interpreter, in a process group of its own."""

    def __init__(
        self, name: str, command: list[str], *, log_path: Path, stop_s_max: float, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.process: asyncio.subprocess.Process | None = None
        # -P: a gateway.py in the user's current folder must not be imported in place of ours.
        self._argv = [sys.executable, "-P", "-m", *command]
        self._stop_s_max = stop_s_max
        self._env = env

    async def start(self) -> None:
        self.process = await process.spawn(self._argv, self._env, self.log_path)

    async def stop(self) -> None:
        if self.process is not None:
            await process.stop(self.process, self._stop_s_max)


def programs(
    config: Config, models: Sequence[str], config_path: Path, logs_dir: Path, env: Mapping[str, str]
) -> list[list[Program]]:
    """All but Redis, in groups, with a worker for each of `models`. A group stops when the one before it has ended; all
    start at once."""
    path = str(config_path)

    def program(name: str, module: str, stop_s_max: float, *more: str) -> Program:
        log_path = logs_dir / f"{name.replace(' ', '-')}.log"
        return PythonProgram(name, [module, path, *more], log_path=log_path, stop_s_max=stop_s_max, env=env)

    count = config.gateway.processes
    drain_s = config.gateway.drain_s + DRAIN_MARGIN_S
    gateways = [
        program("gateway" if count == 1 else f"gateway {number}", "gateway", drain_s) for number in range(1, count + 1)
    ]
    scheduler = program("scheduler", "scheduler", SCHEDULER_STOP_S_MAX)
    workers = [program(f"worker {model}", "services.worker", drain_s + ENGINE_STOP_S_MAX, model) for model in models]
    workers += [program(f"overflow {name}", "services.worker.overflow", drain_s, name) for name in config.overflow]
    workers.append(program("jobs", "services.jobs", JOBS_STOP_S_MAX))
    return [gateways, [scheduler], workers]
