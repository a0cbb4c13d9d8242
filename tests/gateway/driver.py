"""Scheduler and worker in one, over the real queues: lets every chat in at once and answers it from a script."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.contracts.chats import ChatUsage, KvBits, Ticket
from services.contracts.decisions import Decision, Outcome, Reason, Reservation
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyError
from services.store.connection import Connection, QueueUnavailable
from services.store.records import ClaimedChat
from services.store.scheduling import SchedulerStore
from services.store.work import ReplyPiece, WorkConsumer
from services.worker.parsers.base import Parsed
from tests.snapshots import snapshot

BYTES_PER_TOKEN = 100  # of KV
KEEP_S = 60
RETRY_S = 0.05  # a Redis that is not there is waited for, as the real ones do


@dataclass
class Script:
    """What happens to one chat."""

    pieces: Sequence[str | Parsed] = ("Hel", "lo", ", wörld", "!")  # a text is a token of content
    pause_s: float = 0.0  # before each piece
    finish: Finish = Finish.STOP
    stop_text: str = ""  # that ended the answer
    error: ReplyError | None = None
    refuse: tuple[Reason, str, float | None] | None = None  # the scheduler's word: reason, message, retry after
    hold_s: float = 0.0  # in the waiting room
    ignore: bool = False  # nobody ever takes it

    @property
    def text(self) -> str:
        """All that is said."""
        return "".join(piece if isinstance(piece, str) else piece.text for piece in self.pieces)


@dataclass
class Driver:
    """`script_for` may be replaced by a test. `tickets` and `claims` are what came, `cancelled` what was stopped."""

    connection: Connection
    model: str = "small"
    script_for: Callable[[Ticket], Script] = field(default=lambda _: Script())
    tickets: list[Ticket] = field(default_factory=list)
    claims: list[ClaimedChat] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    lease: str = ""

    async def run(self) -> None:
        """Until cancelled."""
        self.desk, self.bench = (
            SchedulerStore(self.connection),
            WorkConsumer(self.connection, self.model, f"{self.model}@test"),
        )
        await self.bench.open()
        lease = await self.desk.take_lease("", "test", 600_000)
        await self.ready()
        self.lease = lease or ""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._schedule())
            tasks.create_task(self._work())
            tasks.create_task(self._hear())

    async def ready(self, bits: int = 8) -> None:
        """Say what a scheduler and a worker say of themselves."""
        held = KvBits(bits)
        facts = EngineFacts(
            self.model, "llamacpp", 1, 1, 1, {bits: BYTES_PER_TOKEN}, context_tokens=2048, chats_max=8, kv_bits=held
        )
        await self.bench.publish_engine(facts, EngineReport(self.model, time.time() + 3600, EngineState.READY))
        await self.desk.publish_snapshot(snapshot(), 60_000)

    async def _schedule(self) -> None:
        after = "0-0"
        while True:
            try:
                after, events = await self.desk.events(after, 100)
            except QueueUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            for event in events:
                if event.ticket is not None:
                    self.tickets.append(event.ticket)
                    self._tasks.create_task(self._admit(event.ticket))

    async def _admit(self, ticket: Ticket) -> None:
        script = self.script_for(ticket)
        if script.ignore:
            return
        await asyncio.sleep(script.hold_s)
        if script.refuse is not None:
            reason, message, retry_s = script.refuse
            decision = Decision(ticket.chat, Outcome.REJECT, reason, ticket.kv_bits, retry_after_s=retry_s)
            await self.desk.refuse(self.lease, ticket, decision, message, time.time())
            return
        held = Reservation(
            ticket.chat, ticket.tenant, ticket.session, ticket.model, ticket.kv_bits, 1, time.time(), ticket.tokens_max
        )
        await self.desk.dispatch(self.lease, ticket, held)

    async def _work(self) -> None:
        while True:
            try:
                await self._answer(await self.bench.take(64, 100))
            except QueueUnavailable:
                await asyncio.sleep(RETRY_S)
                with contextlib.suppress(QueueUnavailable):  # as a worker: what was on its way when Redis went silent
                    begun = {claim.ticket.chat for claim in self.claims}
                    await self._answer([taken for taken in await self.bench.mine() if taken[1] not in begun])

    async def _answer(self, taken: Sequence[tuple[str, str]]) -> None:
        for entry, chat in taken:
            claim = await self.bench.claim(entry, chat)
            if claim is not None:
                self.claims.append(claim)
                self._tasks.create_task(self.answer(claim))

    async def answer(self, claim: ClaimedChat) -> None:
        script = self.script_for(claim.ticket)
        place = 0
        for piece in script.pieces:
            await asyncio.sleep(script.pause_s)
            if claim.ticket.chat in self.cancelled:
                break
            place += 1
            await self.bench.write([_piece(claim, place, piece)])
        await self.settle(claim, script, place)

    async def settle(self, claim: ClaimedChat, script: Script, tokens: int) -> None:
        gone = claim.ticket.chat in self.cancelled
        finish = Finish.CANCELLED if gone else Finish.ERROR if script.error else script.finish
        thoughts = sum(
            isinstance(piece, Parsed) and piece.content is ContentKind.REASONING for piece in script.pieces[:tokens]
        )
        usage = ChatUsage(
            claim.ticket.prompt_tokens,
            2,
            tokens,
            claim.kv_bits,
            queue_s=claim.queue_s,
            first_token_s=0.01,
            reasoning_tokens=thoughts,
        )
        end = ReplyEnd(finish, usage, script.error, stop_text=script.stop_text)
        await self.bench.settle(claim.ticket, claim.attempt, end, usage=usage, keep_s=KEEP_S, now_s=time.time())
        self.settled.add(claim.ticket.chat)

    async def _hear(self) -> None:
        while True:
            with contextlib.suppress(QueueUnavailable):
                async for command in self.bench.commands():
                    self.cancelled.add(command.cancel)
            await asyncio.sleep(RETRY_S)


def _piece(claim: ClaimedChat, place: int, piece: str | Parsed) -> ReplyPiece:
    part = Parsed(ContentKind.CONTENT, piece, 1) if isinstance(piece, str) else piece
    return ReplyPiece(
        claim.ticket.chat,
        claim.attempt,
        place,
        part.text,
        part.tokens,
        content=part.content,
        raw=part.raw,
        logprobs=part.logprobs,
    )


async def until(condition: Callable[[], object], limit_s: float = 15.0) -> None:
    """Wait for something that happens elsewhere."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in another process, or in Redis)
            await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel and await."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
