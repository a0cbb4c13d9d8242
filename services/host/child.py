"""One program kept running: started, watched, restarted, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from services.host.programs import CONFIG_ERROR_CODE, ENGINE_ERROR_CODE, Program
from services.host.restarts import Restarts
from services.process import children as process
from services.store.embedded_redis import EmbeddedRedisError

TAIL_LINES = 12

log = structlog.get_logger()


class ChildState(StrEnum):
    """Where a child is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # it died, and a pause precedes its restart
    GAVE_UP = "gave up"
    STOPPED = "stopped"


class GaveUp(Exception):
    """A child kept dying and is not restarted. The message ends with its last log lines."""


class EngineGaveUp(GaveUp):
    """A worker whose engine does not start. The message is one line that ends with the cause."""


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """A child as `bunkhouse ps` shows it."""

    name: str
    pid: int | None
    state: ChildState
    restarts: int
    since_s: float  # Unix time of the last change


class Child:
    """Runs one program until it is stopped. `changed` is called after every change of `status`."""

    def __init__(self, program: Program, changed: Callable[[Child], None], restarts: Restarts | None = None) -> None:
        self.program = program
        self.last_error = ""  # why it died last
        self._changed = changed
        self._restarts = restarts or Restarts()
        self._state = ChildState.STARTING
        self._since_s = time.time()

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def status(self) -> ChildStatus:
        running = self.program.process
        pid = running.pid if running is not None and running.returncode is None else None
        return ChildStatus(self.name, pid, self._state, self._restarts.total, self._since_s)

    async def run(self) -> None:
        """Keep it up until cancelled; the caller then stops it. Raises GaveUp."""
        loop = asyncio.get_running_loop()
        while True:
            self._set_state(ChildState.STARTING)
            began_s = loop.time()
            code = await self._run_once()
            now_s = loop.time()
            final = code in (CONFIG_ERROR_CODE, ENGINE_ERROR_CODE)
            pause_s = None if final else self._restarts.died(now_s, now_s - began_s)
            log.error("child.died", child=self.name, why=self.last_error, again_in_s=pause_s)
            if pause_s is None:
                self._set_state(ChildState.GAVE_UP)
                if code == ENGINE_ERROR_CODE:
                    raise EngineGaveUp(f"{self.name} cannot start its engine: {self._last_lines(1)}")
                raise GaveUp(self._failure(code))
            self._set_state(ChildState.WAITING)
            await asyncio.sleep(pause_s)

    async def stop(self) -> None:
        """End the program and every process below it. Safe to call twice."""
        await self.program.stop()
        self._set_state(ChildState.STOPPED)
        log.info("child.stopped", child=self.name)

    async def _run_once(self) -> int | None:
        """Start it and wait for its end. Returns the exit code, None where it did not start."""
        try:
            await self.program.start()
        except (OSError, EmbeddedRedisError) as error:
            self.last_error = str(error)
            return None
        running = self.program.process
        if running is None:
            raise RuntimeError(f"{self.name} started without a process")
        self._set_state(ChildState.RUNNING)
        log.info("child.started", child=self.name, pid=running.pid)
        code = await running.wait()
        await self.program.stop()  # what it left behind in its process group
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self.last_error = f"it ended ({how})"
        return code

    def _set_state(self, state: ChildState) -> None:
        self._state = state
        self._since_s = time.time()
        self._changed(self)

    def _failure(self, code: int | None) -> str:
        tries = (
            f"cannot run as it is configured ({self.last_error})"
            if code == CONFIG_ERROR_CODE
            else f"died {self._restarts.deaths_max} times within {self._restarts.window_s:.0f} s; the last time, "
            f"{self.last_error}"
        )
        return f"{self.name} {tries}. The end of {self.program.log_path}:\n{self._last_lines(TAIL_LINES)}"

    def _last_lines(self, count: int) -> str:
        with contextlib.suppress(OSError):
            return process.tail(self.program.log_path, count).strip()
        return "(it cannot be read)"
