"""The engine's life inside its worker: start, watch, restart with back-off, change of KV bits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

import structlog

from scheduler.types import EngineFacts, EngineReport, EngineState, KvBits
from services.engines.base import Engine, EngineError, EngineStartError, Progress

WATCH_S = 1.0
MISSES_MAX = 3  # health checks in a row
STRIKES_MAX = 3  # chats in a row that failed on an engine that calls itself healthy
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)  # before each try to start; then the worker gives up

log = structlog.get_logger()


class EngineGone(Exception):
    """The engine did not come back after all tries. The message has its last log lines."""


class EngineLife:
    """Keeps one engine running. `ready` is set while chats may be sent to it."""

    def __init__(self, engine: Engine, model: str, progress: Progress, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.ready = asyncio.Event()
        self._model = model
        self._progress = progress
        self._clock = clock
        self._state = EngineState.STARTING
        self._facts: EngineFacts | None = None
        self._strikes = 0
        self._dead = asyncio.Event()
        self._changing = asyncio.Lock()

    @property
    def facts(self) -> EngineFacts:
        """What the running engine is. Only after the first start."""
        if self._facts is None:
            raise RuntimeError("the engine has not started yet")
        return self._facts

    async def suspect(self) -> None:
        """A chat saw the engine fail. Chats that come after this returns wait until it was looked after."""
        self._strikes += 1
        if self._strikes >= STRIKES_MAX or not await self.engine.alive():
            self.ready.clear()
            self._dead.set()

    def proved(self) -> None:
        """A chat came through."""
        self._strikes = 0

    async def start(self) -> None:
        """Bring it up, with back-off. Raises EngineGone."""
        for number, pause_s in enumerate(BACKOFF_S, 1):
            await asyncio.sleep(pause_s)
            try:
                self._facts = await self.engine.start(self._progress)
            except EngineStartError as error:
                log.error("engine.start_failed", model=self._model, tries=number, why=str(error))
                last = error
            else:
                self._state = EngineState.READY
                self.ready.set()
                self._progress("ready")
                log.info("engine.ready", model=self._model, kv_bits=int(self._facts.kv_bits))
                return
        raise EngineGone(f"{self._model}: the engine failed to start {len(BACKOFF_S)} times: {last}")

    async def watch(self) -> None:
        """Restart it whenever it dies or hangs. Runs until cancelled; raises EngineGone."""
        misses = 0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dead.wait(), WATCH_S)
            if self._changing.locked():
                continue
            misses = 0 if await self.engine.alive() else misses + 1
            if self._dead.is_set() or misses >= MISSES_MAX:
                misses = self._strikes = 0
                self._dead.clear()
                log.error("engine.died", model=self._model)
                await self._restart()

    async def _restart(self) -> None:
        async with self._changing:
            self.ready.clear()
            self._state = EngineState.DOWN
            self._progress("restarting")
            await self.engine.stop()
            await self.start()

    async def set_kv_bits(self, bits: KvBits) -> EngineFacts:
        """Change the KV bits of an engine that the caller has drained, unless it changes live.

        Raises EngineError; the engine then runs as it did before, or is restarted by `watch`.
        """
        async with self._changing:
            live = self.facts.live_kv_bits
            if not live:
                self.ready.clear()
                self._state = EngineState.DRAINING
            try:
                self._facts = await self.engine.set_kv_bits(bits, self._progress)
            finally:
                if not live and await self.engine.alive():
                    self._state = EngineState.READY
                    self.ready.set()
            return self._facts

    async def report(self) -> EngineReport:
        """What to tell the scheduler now."""
        if self._state is EngineState.READY:
            with contextlib.suppress(EngineError):
                return replace(await self.engine.report(), at_s=self._clock())
        return EngineReport(self._model, self._clock(), EngineState.DOWN if self.ready.is_set() else self._state)
