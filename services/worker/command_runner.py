"""Commands to this worker, carried out one at a time: change of KV bits, sleep, wake, unload, load.

Each ends in Redis with a result or an error, even if its sender is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineState
from services.engines.base import Engine, EngineError
from services.store.commands import Command, CommandResult, Commands, CommandState, DesiredState, Power
from services.store.connection import QueueUnavailable, retried
from services.worker.engine_supervisor import EngineSupervisor
from services.worker.kv_change import DRAIN_POLL_S, ChangeCancelled, ChangeContext, ChangeFailed, Prompt, change_bits

POLL_S = 1.0  # the delay after a lost hint
REST_KEEP_S = 60.0  # a worker that comes back within it leaves a suspended engine suspended

log = structlog.get_logger()


def bits_to_start(desired: DesiredState, configured: int | str | None) -> KvBits | None:
    """The KV bits that were verified last, or None where the file says something else since, or nothing was."""
    if desired.kv_bits is None or desired.configured != configured:
        return None
    return KvBits(desired.kv_bits)


@dataclass(frozen=True)
class CommandDependencies:
    """What commands are carried out with."""

    commands: Commands
    prompt: Prompt  # of probe chats
    configured: int | str | None = None  # KV bits in the configuration file
    build: Callable[[KvBits], Engine] | None = None  # a second engine for the same model, not started
    idle_after_s: float | None = None  # asleep after so long without a chat


class CommandRunner:
    """Runs one model's commands. `run` must be running; it raises EngineGone."""

    def __init__(
        self,
        model: str,
        supervisor: EngineSupervisor,
        dependencies: CommandDependencies,
        *,
        streaming: Callable[[Engine | None], int],
        publish: Callable[[], Awaitable[None]],
        lowered: Callable[[KvBits], Awaitable[None]],
    ) -> None:
        self._model = model
        self._supervisor = supervisor
        self._dependencies = dependencies
        self._streaming = streaming  # chats that an engine works on; None: that this worker has at all
        self._publish = publish  # describes the engine in Redis, so that a command never looks done before its effect
        self._lowered = lowered  # after an engine lowered all its chats at once: reports them to the scheduler
        self._hint = asyncio.Event()
        self._wake = False
        self._busy_at = 0.0

    def hint(self) -> None:
        """There may be a command."""
        self._hint.set()

    def wake(self) -> None:
        """A chat waits for the model."""
        self._wake = True
        self._hint.set()

    def busy(self) -> None:
        """A chat began or ended, perhaps between two looks."""
        self._busy_at = asyncio.get_running_loop().time()

    async def start(self, last: tuple[EngineFacts, float] | None, now_s: float) -> None:
        """Bring the engine up, or leave it suspended if the worker before this one left it so a moment ago.

        `last`: the engine as it was last described, and when. Raises EngineGone.
        """
        desired = await retried(lambda: self._dependencies.commands.desired(self._model))
        if desired.power is not Power.UP and last is not None and now_s - last[1] < REST_KEEP_S:
            state = EngineState.ASLEEP if desired.power is Power.ASLEEP else EngineState.DOWN
            async with self._supervisor.changing:
                await self._supervisor.suspend(state, last[0])
        else:
            await self._supervisor.start()
            await self._take_up(desired)
            await self._desire(power=Power.UP, kv_bits=int(self._supervisor.facts.kv_bits))
        await self._end_what_was_left()

    async def _take_up(self, desired: DesiredState) -> None:
        """An engine that changes live starts with the file's bits and goes on with those it had."""
        facts = self._supervisor.facts
        bits = bits_to_start(desired, self._dependencies.configured)
        if facts.live_kv_bits and bits is not None and bits != facts.kv_bits:
            async with self._supervisor.changing:
                try:
                    self._supervisor.open(await self._supervisor.engine.set_kv_bits(bits, _silent))
                except EngineError as error:
                    log.warning("engine.kv_bits_not_restored", bits=int(bits), why=str(error))

    async def _end_what_was_left(self) -> None:
        command = await retried(lambda: self._dependencies.commands.read(self._model))
        if command is not None and command.state is CommandState.RUNNING:
            result = CommandResult(kv_bits=int(self._supervisor.facts.kv_bits), restarted=True)
            await self._write(
                state=CommandState.FAILED, result=result, error="The worker was restarted in the middle of it."
            )

    async def run(self) -> None:
        """Carry out commands until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._hint.wait()
            self._hint.clear()
            try:
                command = await self._dependencies.commands.read(self._model)
            except QueueUnavailable as error:
                log.warning("worker.commands_lost", why=str(error))
                continue
            if command is not None and command.state is CommandState.SENT:
                await self._carry_out(command)
            await self._look_after_power()

    async def _look_after_power(self) -> None:
        loop_s = asyncio.get_running_loop().time()
        idle_after_s = self._dependencies.idle_after_s
        if self._streaming(None) or not self._busy_at:
            self._busy_at = loop_s
        if self._supervisor.asleep and (self._wake or self._streaming(None)):
            await self._resume()
        elif idle_after_s is not None and self._supervisor.ready.is_set() and loop_s - self._busy_at > idle_after_s:
            log.info("engine.idle", model=self._model, idle_s=round(loop_s - self._busy_at))
            with contextlib.suppress(EngineError):
                await self._suspend(Power.ASLEEP)
        self._wake = False

    async def _carry_out(self, command: Command) -> None:
        if not await retried(lambda: self._dependencies.commands.take(self._model, command.id)):
            return
        log.info("worker.command", model=self._model, kind=command.kind, args=command.args)
        try:
            await self._do(command)
        except (ChangeFailed, EngineError) as error:
            log.error("worker.command_failed", model=self._model, kind=command.kind, why=str(error))
            cancelled = isinstance(error, ChangeCancelled)
            result = CommandResult(kv_bits=int(self._supervisor.facts.kv_bits), cancelled=cancelled)
            await self._publish()
            await self._write(state=CommandState.FAILED, result=result, error=str(error))
        else:
            result = CommandResult(kv_bits=int(self._supervisor.facts.kv_bits))
            await self._publish()
            await self._write(state=CommandState.DONE, progress=1.0, words="done", result=result)

    async def _do(self, command: Command) -> None:
        match command.kind:
            case "kv_bits":
                await self._change_bits(command)
            case "sleep":
                await self._suspend(Power.ASLEEP)
            case "unload":
                await self._suspend(Power.UNLOADED)
            case "wake" | "load":
                await self._resume()
            case _:
                raise ChangeFailed(f"This worker does not know the command {command.kind!r}.")

    async def _change_bits(self, command: Command) -> None:
        async def verified(bits: KvBits) -> None:
            await self._desire(kv_bits=int(bits), power=Power.UP)

        async def say(progress: float, words: str) -> None:
            await self._publish()
            await self._write(progress=progress, words=words)

        async def cancelled() -> bool:
            now = await retried(lambda: self._dependencies.commands.read(self._model))
            return now is not None and now.id == command.id and now.cancelled

        context = ChangeContext(
            supervisor=self._supervisor,
            prompt=self._dependencies.prompt,
            streaming=self._streaming,
            verified=verified,
            say=say,
            cancelled=cancelled,
            build=self._dependencies.build,
        )
        bits = KvBits(command.args["bits"])
        await change_bits(context, bits, command.args.get("how", "drain"))
        if self._supervisor.facts.live_kv_bits:
            await self._lowered(bits)

    async def _suspend(self, power: Power) -> None:
        """Drain, then end the engine."""
        supervisor = self._supervisor
        state = EngineState.ASLEEP if power is Power.ASLEEP else EngineState.DOWN
        async with supervisor.changing:
            if not supervisor.suspended:
                supervisor.hold()
                while self._streaming(supervisor.engine):  # noqa: ASYNC110  (of many chats)
                    await asyncio.sleep(DRAIN_POLL_S)
            await self._desire(power=power)
            await supervisor.suspend(state)

    async def _resume(self) -> None:
        async with self._supervisor.changing:
            if self._supervisor.suspended:
                await self._supervisor.wake()
            await self._desire(power=Power.UP)
            self.busy()

    async def _desire(self, **changes: object) -> None:
        configured = self._dependencies.configured
        await retried(lambda: self._dependencies.commands.desire(self._model, configured=configured, **changes))

    async def _write(self, **values: object) -> None:
        await retried(lambda: self._dependencies.commands.write(self._model, **values))


def _silent(_words: str) -> None:
    """The engine's own words are dropped: a command reports its own."""
