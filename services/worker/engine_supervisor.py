"""Supervises the engine of one worker: start, watch, restart with back-off, suspend, replace. And what its
chats see of it: latencies, for the scheduler's bandwidth model.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import structlog

from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.engines.base import Engine, EngineError, EngineStartError, Progress
from services.worker.gpu_sharing import LOOK_S, GpuSharing

WATCH_S = 1.0
MISSES_MAX = 3  # health checks in a row
STRIKES_MAX = 3  # chats in a row that failed on an engine that calls itself healthy
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)  # before each try to start; then the worker gives up

_REASON = re.compile(r"error\b[^:]*: \S", re.IGNORECASE)

log = structlog.get_logger()


class EngineGone(Exception):
    """The engine did not come up in all tries. The message has its last log lines."""

    def __init__(self, message: str, *, never_up: bool = False) -> None:
        super().__init__(message)
        self.never_up = never_up  # not once since the worker started: another worker would fail, too

    @property
    def cause(self) -> str:
        """One line: the last one that names an error and goes on with its reason."""
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        return next((line for line in reversed(lines) if _REASON.search(line)), lines[-1])


class EngineSupervisor:
    """Keeps one engine running. `ready` is set while chats may be sent to it; `settled` also while it is suspended,
    when chats cannot be served but can be cancelled.

    Whoever changes the engine holds `changing`; `watch` leaves it alone then.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        progress: Progress,
        clock: Callable[[], float],
        gpu_sharing: GpuSharing | None = None,
    ) -> None:
        self.engine = engine
        self.ready = asyncio.Event()
        self.settled = asyncio.Event()
        self.starts = 0  # number of starts: a chat's failure counts against the start that it ran on
        self.changing = asyncio.Lock()
        self._model = model
        self._progress = progress
        self._clock = clock
        self._gpu_sharing = gpu_sharing
        self._looked_s = 0.0
        self._state = EngineState.STARTING
        self._facts: EngineFacts | None = None
        self._strikes = 0
        self._up_since_s = 0.0
        self._dead = asyncio.Event()

    @property
    def facts(self) -> EngineFacts:
        """Of the running engine, or of the one that was suspended. Only after `start` or `suspend`."""
        if self._facts is None:
            raise RuntimeError("the engine has not started yet")
        return self._facts

    @property
    def suspended(self) -> bool:
        """Asleep or unloaded: stopped on purpose."""
        return self._state in (EngineState.ASLEEP, EngineState.DOWN)

    @property
    def asleep(self) -> bool:
        return self._state is EngineState.ASLEEP

    async def usable(self) -> None:
        """Returns while `ready` is set: the caller may start a chat before its next await."""
        while not self.ready.is_set():
            await self.ready.wait()

    async def suspect(self, start: int) -> None:
        """A chat failed on the engine's `start`th start. Once this returns, new chats wait until it was checked.

        Failures of an earlier start say nothing about the present one.
        """
        if start != self.starts:
            return
        self._strikes += 1
        if (self._strikes >= STRIKES_MAX or not await self.engine.alive()) and start == self.starts:
            self.ready.clear()
            self.settled.clear()
            self._dead.set()

    def proved(self) -> None:
        """A chat was answered."""
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
                self.open(self._facts)
                await self._look_at_sharing()
                return
        words = f"{self._model}: the engine failed to start {len(BACKOFF_S)} times: {last}"
        raise EngineGone(words, never_up=self.starts == 0)

    async def watch(self) -> None:
        """Restart it whenever it dies or hangs. Runs until cancelled; raises EngineGone."""
        misses = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._dead.wait()
            if self.changing.locked() or self.suspended:
                await asyncio.sleep(WATCH_S)  # `_dead` may be set: waiting for it would not wait
                continue
            start = self.starts
            if self._clock() - self._looked_s >= LOOK_S and not await self._look_at_sharing():
                log.error("engine.lost_mps", model=self._model)
                self._dead.set()
            misses = 0 if await self.engine.alive() else misses + 1
            if self._dead.is_set() or misses >= MISSES_MAX:
                misses = 0
                await self._restart(start)

    async def _look_at_sharing(self) -> bool:
        """Note how the engine shares its GPU. False: it had joined an MPS server that is gone."""
        if self._gpu_sharing is None:
            return True
        intact = await self._gpu_sharing.look()
        self._looked_s = self._clock()
        self._facts = replace(self.facts, sharing=self._gpu_sharing.sharing)
        return intact

    async def _restart(self, start: int) -> None:
        async with self.changing:
            if self.suspended or self.starts != start:  # it was ended or changed while we looked
                return
            self._strikes = 0
            self._dead.clear()
            log.error("engine.died", model=self._model)
            self.hold(EngineState.STARTING)
            self._progress("restarting")
            self.starts += 1  # its chats fail as it is stopped, which must not count against the next
            await self.engine.stop()
            if self._gpu_sharing is not None:
                await self._gpu_sharing.until_daemon()
            await self.start()

    def hold(self, state: EngineState = EngineState.DRAINING) -> None:
        """Send no more chats to the engine: new ones wait in Redis, running ones go on."""
        self.ready.clear()
        self.settled.clear()
        self._state = state

    def open(self, facts: EngineFacts, engine: Engine | None = None) -> None:
        """Chats go to the engine again, or to another one in its place."""
        self.engine = engine or self.engine
        self._facts = facts
        if self._gpu_sharing is not None:
            self._gpu_sharing.restarted()
        self._state = EngineState.READY
        self._up_since_s = self._clock()
        self.starts += 1
        self._strikes = 0
        self._dead.clear()
        self.ready.set()
        self.settled.set()
        self._progress("ready")
        log.info("engine.ready", model=self._model, kv_bits=int(facts.kv_bits))

    async def suspend(self, state: EngineState, facts: EngineFacts | None = None) -> None:
        """End the engine, which the caller has drained: ASLEEP, or DOWN for unloaded. `facts`: if it did not run.

        The caller holds `changing`. Raises EngineError.
        """
        self.hold(state)
        self._facts = facts or self._facts
        if facts is None and state is EngineState.ASLEEP and self.engine.can_sleep:
            await self.engine.sleep()
        else:
            await self.engine.stop()
        self.settled.set()
        self._progress("asleep" if state is EngineState.ASLEEP else "unloaded")

    async def wake(self) -> None:
        """Bring a suspended engine up again. The caller holds `changing`. Raises EngineGone."""
        slept = self.asleep and self.engine.can_sleep
        self.hold(EngineState.STARTING)
        if slept:
            try:
                self.open(await self.engine.wake(self._progress))
            except EngineError as error:
                log.warning("engine.wake_failed", model=self._model, why=str(error))
                await self.engine.stop()
            else:
                return
        await self.start()

    async def report(self) -> EngineReport:
        """What to report to the scheduler. Figures are as old as the engine says, and never newer than now."""
        if self._state is EngineState.READY:
            with contextlib.suppress(EngineError):
                report = await self.engine.report()
                return replace(report, at_s=min(report.at_s, self._clock()), up_since_s=self._up_since_s)
        state = EngineState.DOWN if self.ready.is_set() else self._state
        return EngineReport(self._model, self._clock(), state, up_since_s=self._up_since_s)


WINDOW_S = 5.0


class LatencyWindow:
    """Keeps the last seconds' inter-token times and prefill speeds of one engine."""

    def __init__(self) -> None:
        self._gaps: deque[tuple[float, float, int]] = deque(maxlen=4096)  # (when, seconds, tokens)
        self._prefills: deque[tuple[float, float, int]] = deque(maxlen=256)  # (when, seconds, tokens)
        self._firsts = 0  # first tokens since the last report
        self._tokens: dict[str, int] = {}  # chat -> tokens of KV that it holds now
        self._reports_pace = False  # the engine has reported inter-token times
        self._reports_prefill = False  # the engine has reported prefill speeds

    def started(self, chat: str, prompt_tokens: int) -> None:
        """A chat was handed to the engine."""
        self._tokens[chat] = prompt_tokens

    def first(self, chat: str, now_s: float, waited_s: float, prompt_tokens: int) -> None:
        """Its first token came `waited_s` later, after a prompt of so many tokens."""
        self._firsts += 1
        if waited_s > 0 and prompt_tokens > 0:
            self._prefills.append((now_s, waited_s, prompt_tokens))
        self._tokens[chat] = self._tokens.get(chat, 0) + 1

    def token(self, chat: str, now_s: float, gap_s: float, tokens: int) -> None:
        """`tokens` more came after `gap_s`."""
        if tokens > 0:
            self._gaps.append((now_s, gap_s, tokens))
            self._tokens[chat] = self._tokens.get(chat, 0) + tokens

    def ended(self, chat: str) -> None:
        """It holds no KV any more."""
        self._tokens.pop(chat, None)

    def add_to(self, report: EngineReport, bytes_per_token: int) -> EngineReport:
        """The engine's report, completed with what was seen here. A figure that the engine reports itself wins.

        The time a token is a mean: a median would leave out the pauses for other chats' prompts.
        """
        since = report.at_s - WINDOW_S
        gaps = [(gap_s, tokens) for when, gap_s, tokens in self._gaps if when >= since]
        gap_s, tokens = sum(gap_s for gap_s, _ in gaps), sum(tokens for _, tokens in gaps)
        # Ours counts cached tokens as computed, so it is not used once the engine has reported its own.
        self._reports_prefill = self._reports_prefill or bool(report.prefill_tokens_per_s)
        self._reports_pace = self._reports_pace or bool(report.inter_token_s)
        prefills = [] if self._reports_prefill else [(s, tokens) for when, s, tokens in self._prefills if when >= since]
        prompts = self._firsts
        if report.prefill_tokens:
            self._firsts = 0
        held = sum(self._tokens.values()) * bytes_per_token
        return replace(
            report,
            kv_used_bytes=report.kv_used_bytes or held,
            running=report.running or len(self._tokens),
            inter_token_s=report.inter_token_s or (gap_s / tokens if tokens and not self._reports_pace else None),
            prefill_tokens_per_s=report.prefill_tokens_per_s
            or (median(tokens / waited_s for waited_s, tokens in prefills) if prefills else None),
            prefill_tokens=report.prefill_tokens or sum(tokens for _, tokens in prefills),
            prefill_prompts=len(prefills) or prompts,
            step_kv_bytes=report.step_kv_bytes or held,
        )
