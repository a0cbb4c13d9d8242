"""An order that lowers every chat: the ledger has only those whose KV the engine says is low. A prepared engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.contracts.chats import KvBits
from services.engines.base import EngineBusy, EngineRequest, EngineUnavailable, Piece
from services.store.commands import Command, Commands
from services.store.work import WorkConsumer
from services.worker.command_runner import CommandDependencies
from services.worker.worker import Worker, probe_prompt
from tests.browser.talker import Shape, Talker
from tests.worker.conftest import Bunk, running

LIVE = Shape(1000, 100, 10_000_000, {4: 100, 8: 200}, 512, 8, 8, live=True, step_s=0.01)
ON_ITS_WAY, QUEUED, ANSWERED, TURNED_AWAY = range(4)


class Queueing(Talker):
    """Each chat is where the test puts it in `place`: ON_ITS_WAY at first."""

    def __init__(self) -> None:
        super().__init__("m", LIVE, lambda ids: "endless " + " ".join(map(str, ids)))
        self.place: dict[str, int] = {}
        self.asked: asyncio.Queue[tuple[str, KvBits]] = asyncio.Queue()

    async def stream(self, request: EngineRequest) -> AsyncIterator[Piece]:
        if not request.chat.startswith("probe"):
            self.place[request.chat] = ON_ITS_WAY
            self.asked.put_nowait((request.chat, request.kv_bits))
            while self.place[request.chat] < ANSWERED:  # noqa: ASYNC110  (of many chats)
                await asyncio.sleep(0.01)
            if self.place[request.chat] == TURNED_AWAY:
                raise EngineBusy("the queue is full")
        async for piece in super().stream(request):
            yield piece

    async def set_chat_kv_bits(self, chat: str, bits: KvBits) -> None:
        if self.place.get(chat) == ON_ITS_WAY:
            raise EngineUnavailable(f"it does not have chat {chat}")


class Served:
    """A worker on that engine, and what the ledger has."""

    def __init__(self, bunk: Bunk) -> None:
        self.bunk, self.engine, self.commands = bunk, Queueing(), Commands(bunk.connection)

    def worker(self) -> Worker:
        return Worker(
            "m",
            self.engine,
            self.bunk.tokenizer,
            WorkConsumer(self.bunk.connection, "m", "m@0"),
            reply_keep_s=60,
            drain_s=0.1,
            clock=time.time,
            dependencies=CommandDependencies(self.commands, probe_prompt(self.bunk.tokenizer), configured="mixed"),
        )

    async def begun(self) -> str:
        """A chat at 8 bits that was sent to the engine."""
        chat = (await self.bunk.submit("Count.", max_tokens=400)).chat
        assert await self.engine.asked.get() == (chat, KvBits.EIGHT)
        return chat

    async def lower_all(self) -> None:
        assert await self.commands.send("m", Command("c1", "kv_bits", {"bits": 4}, at_s=time.time()))
        async with asyncio.timeout(10):
            while not ((command := await self.commands.read("m")) and command.ended):  # noqa: ASYNC110  (it stands in Redis)
                await asyncio.sleep(0.02)

    async def ledger(self) -> dict[str, int]:
        return {one.chat: int(one.kv_bits) for one in await self.bunk.desk.reservations()}

    async def until(self, ledger: dict[str, int]) -> None:
        async with asyncio.timeout(10):
            while await self.ledger() != ledger:  # noqa: ASYNC110  (it stands in Redis)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def served(bunk: Bunk) -> AsyncIterator[Served]:
    host = Served(bunk)
    async with running(host.worker()):
        yield host


async def test_a_chat_on_its_way_to_the_engine_counts_in_full_until_it_is_lowered_there(bunk: Bunk) -> None:
    """It came to run at 8 bits, and the ledger gave half of its memory to others."""
    async with served(bunk) as host:
        there, coming = await host.begun(), await host.begun()
        host.engine.place[there] = ANSWERED
        await bunk.entries(there, until_text=1)
        await host.lower_all()
        await host.until({there: 4, coming: 8})
        await asyncio.sleep(0.7)  # it is asked after meanwhile
        assert await host.ledger() == {there: 4, coming: 8}
        host.engine.place[coming] = QUEUED
        await host.until({there: 4, coming: 4})


async def test_a_chat_that_is_turned_away_after_it_was_lowered_stays_low(bunk: Bunk) -> None:
    async with served(bunk) as host:
        chat = await host.begun()
        host.engine.place[chat] = QUEUED
        await host.lower_all()
        await host.until({chat: 4})
        host.engine.place[chat] = TURNED_AWAY
        assert await host.engine.asked.get() == (chat, KvBits.FOUR)
