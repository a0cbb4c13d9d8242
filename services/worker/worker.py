"""What runs in a worker process, and how it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from services.contracts.chats import KvBits, TokenPrice
from services.contracts.control import ControlMessage
from services.contracts.replies import Finish, ReplyEnd, ReplyError
from services.engines.base import Engine
from services.store.connection import QueueUnavailable, retried
from services.store.work import WorkConsumer
from services.tokenizer.template_family import TemplateFamily
from services.tokenizer.tokenizer import Tokenizer, TokenizerError
from services.worker import chat as chats
from services.worker.chat import RunningChat
from services.worker.command_runner import CommandDependencies, CommandRunner
from services.worker.demotion import Demoter
from services.worker.engine_supervisor import EngineGone, EngineSupervisor, LatencyWindow
from services.worker.gpu_sharing import GpuSharing
from services.worker.kv_change import Prompt
from services.worker.parsers import make_parser
from services.worker.reply_writer import ReplyWriter

TAKE_BLOCK_MS = 500
KEEP_S = 2.0
ABANDONED_MS = 15_000  # well above KEEP_S: a worker that lives keeps its chats
REPORT_S = 1.0
END_AGAIN_S = 1.0

NEVER_UP = "The model's engine does not start."

log = structlog.get_logger()


class Worker:
    """Serves one model until `stop` is called. `run` raises EngineGone when the engine cannot be brought up."""

    def __init__(
        self,
        model: str,
        engine: Engine,
        tokenizer: Tokenizer | None,
        work: WorkConsumer,
        *,
        reply_keep_s: int,
        drain_s: float,
        clock: Callable[[], float],
        dependencies: CommandDependencies | None = None,
        price: TokenPrice = TokenPrice(),  # noqa: B008  (frozen)
        gpu_sharing: GpuSharing | None = None,
    ) -> None:
        self._model = model
        self._work = work
        self._drain_s = drain_s
        self._clock = clock
        self._running: dict[str, RunningChat] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._supervisor = EngineSupervisor(engine, model, self._say, clock, gpu_sharing)
        writer = ReplyWriter(work, self._fenced)
        self._context = chats.WorkerContext(
            work=work,
            supervisor=self._supervisor,
            writer=writer,
            latencies=LatencyWindow(),
            tokenizer=tokenizer,
            reply_keep_s=reply_keep_s,
            clock=clock,
            parser=partial(make_parser, TemplateFamily() if tokenizer is None else tokenizer.family),
            price=price,
        )
        self._demoter = Demoter(work, self._supervisor, self._running)
        self._command_runner = CommandRunner(
            model,
            self._supervisor,
            dependencies or CommandDependencies(work.command_store(), probe_prompt(tokenizer)),
            streaming=self._streaming,
            publish=self._publish,
            lowered=self._demoter.everyone,
        )

    def stop(self) -> None:
        """Take no more chats, finish those under way within `drain_s`, end. An engine that still starts is ended."""
        self._stopping.set()

    async def run(self) -> None:
        """Start the engine, then serve."""
        try:
            if await self._started():
                await self._serve()
        except EngineGone as error:
            await self._give_up(error)
            raise
        finally:
            await self._supervisor.engine.stop()

    async def _started(self) -> bool:
        """False when `stop` was called first: Redis may be gone, and SGLang takes minutes."""
        starting = asyncio.create_task(self._start(), name="start")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                log.info("worker.stopped_while_starting", model=self._model)
                return False
            starting.result()  # raises its error
            return True
        finally:
            await _end([starting, stopping])

    async def _start(self) -> None:
        await retried(self._work.open)
        await self._command_runner.start(await retried(self._work.last_seen), self._clock())
        await retried(self._work.came_up)
        for entry, chat in await retried(self._work.mine):
            self._begin(entry, chat)

    async def _serve(self) -> None:
        background = [
            asyncio.create_task(step, name=name)
            for name, step in {
                "writer": self._context.writer.run(),
                "watch": self._supervisor.watch(),
                "report": self._report(),
                "keep": self._keep(),
                "commands": self._commands(),
                "orders": self._command_runner.run(),
                "take": self._take(),
            }.items()
        ]
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            done, _ = await asyncio.wait([*background, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # raises its error
            background[-1].cancel()
            await self._drain()
        finally:
            await _end([*background, stopping])

    async def _drain(self) -> None:
        log.info("worker.draining", model=self._model, chats=len(self._tasks))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain_s)
        await self._leave()

    async def _leave(self) -> None:
        """End all work. Chats that are left stay pending under this consumer's name; the next worker continues them."""
        held = self._held()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._work.held(held)
        except QueueUnavailable as error:
            log.warning("worker.held_not_written", why=str(error))

    def _held(self) -> dict[str, tuple[int, float]]:
        """KV byte-seconds that running chats have held, with their attempts."""
        return {
            chat: (running.claim.attempt, running.byte_seconds)
            for chat, running in self._running.items()
            if running.claim is not None and running.byte_seconds
        }

    async def _take(self) -> None:
        """Take admitted chats as long as the engine has room."""
        while True:
            free = self._supervisor.facts.chats_max - len(self._running)
            if free <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            await self._supervisor.settled.wait()
            try:
                taken = await self._work.take(free, TAKE_BLOCK_MS)
            except QueueUnavailable as error:
                log.warning("worker.take_failed", why=str(error))
                taken = await retried(self._work.mine)  # a lost answer may have given us chats
            for entry, chat in taken:
                self._begin(entry, chat)

    def _begin(self, entry: str, chat: str) -> None:
        if chat in self._running:
            self._running[chat].entry = entry  # a new one where the ready stream was lost
            return
        running = RunningChat(entry, chat)
        self._running[chat] = running
        self._command_runner.busy()
        running.task = asyncio.create_task(self._run(running), name=chat)
        self._tasks.add(running.task)
        running.task.add_done_callback(self._tasks.discard)

    async def _run(self, running: RunningChat) -> None:
        try:
            await chats.run(running, self._context)
        finally:
            del self._running[running.chat]
            self._command_runner.busy()
            self._room.set()

    async def _keep(self) -> None:
        """Renew claims, look for cancellations that were lost, take over chats of dead workers, store KV use."""
        while True:
            await asyncio.sleep(KEEP_S)
            try:
                await self._work.keep([running.entry for running in self._running.values()])
                for chat in await self._work.cancelled(list(self._running)):
                    if running := self._running.get(chat):  # it may have ended meanwhile
                        running.cancel()
                for entry, chat in await self._work.abandoned(ABANDONED_MS):
                    self._begin(entry, chat)
                if self._supervisor.asleep and await self._work.backlog():
                    self._command_runner.wake()  # dispatched while the engine fell asleep
                await self._work.held(self._held())
            except QueueUnavailable as error:
                log.warning("worker.keep_failed", why=str(error))

    async def _report(self) -> None:
        while True:
            await self._publish()
            await asyncio.sleep(REPORT_S)

    async def _publish(self) -> None:
        """Describe the engine as it is now."""
        report = await self._supervisor.report()
        per_token = self._supervisor.facts.kv_bytes_per_token.get(int(self._supervisor.facts.kv_bits), 0)
        try:
            await self._work.publish_engine(self._supervisor.facts, self._context.latencies.add_to(report, per_token))
        except QueueUnavailable as error:
            log.warning("worker.report_failed", why=str(error))

    async def _commands(self) -> None:
        while True:
            try:
                async for command in self._work.commands():
                    await self._obey(command)
            except QueueUnavailable as error:
                log.warning("worker.commands_lost", why=str(error))
                await asyncio.sleep(KEEP_S)

    async def _obey(self, message: ControlMessage) -> None:
        running = self._running.get(message.cancel)
        if running:
            running.cancel()
        if message.command:
            self._command_runner.hint()
        if message.wake:
            self._command_runner.wake()
        if message.demote:
            self._in_background(self._demoter.one(message.demote, KvBits(message.bits)))

    def _streaming(self, engine: Engine | None) -> int:
        """Chats that an engine works on; None: all that this worker has."""
        if engine is None:
            return len(self._running)
        return sum(running.engine is engine for running in self._running.values())

    async def _give_up(self, error: EngineGone) -> None:
        """Answer every chat that was admitted here: without an engine none of them would ever end."""
        log.error("worker.gives_up", model=self._model, why=str(error))
        end = ReplyEnd(Finish.ERROR, error=ReplyError("model_down", NEVER_UP))
        await self._leave()
        held = await retried(self._work.mine)
        while taken := await retried(lambda: self._work.take(100, 1)):
            held += taken
        for entry, chat in held:
            claim = await retried(lambda entry=entry, chat=chat: self._work.claim(entry, chat))  # type: ignore[misc]
            if claim:
                await chats.close(
                    RunningChat(entry, chat, byte_seconds=claim.kv_byte_seconds), claim, end, self._context
                )
        if error.never_up:  # else the next worker may bring it up
            await retried(self._work.give_up)

    def _fenced(self, chat: str) -> None:
        running = self._running.get(chat)
        if running:
            log.warning("chat.fenced", chat=chat)
            running.fence()

    def _say(self, words: str) -> None:
        log.info("engine.progress", model=self._model, words=words)
        self._in_background(self._tell(words))

    def _in_background(self, step: Coroutine[None, None, None]) -> None:
        """Run something beside the loops."""
        task = asyncio.create_task(step)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _tell(self, words: str) -> None:
        try:
            await self._work.progress(words)
        except QueueUnavailable:
            return


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel until all have ended: in Python 3.11 `wait_for` swallows a cancellation that comes with its result."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=END_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def probe_prompt(tokenizer: Tokenizer | None) -> Prompt:
    """What a probe chat asks; without a chat template, bare text."""
    if tokenizer is None:
        return "Hello"
    try:
        text = tokenizer.render([{"role": "user", "content": "Say hello."}])
    except TokenizerError:
        text = "Hello"
    return tokenizer.prompt(text)
