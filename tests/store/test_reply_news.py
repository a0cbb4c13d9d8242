"""Which gateway process hears the news of which reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest
import uvloop

from services.config.schema import TenantConfig
from services.contracts.chats import ChatUsage, KvBits, Ticket
from services.contracts.decisions import Decision, Outcome, Reason
from services.contracts.replies import QUEUED, ContentKind, Finish, ReplyEnd, ReplyEntry
from services.store import redis_keys as keys
from services.store import replies
from services.store.connection import Connection, connect
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import write_registry
from services.store.replies import Reader, ReplyHub
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient
from services.store.work import ReplyPiece, WorkConsumer
from tests.scheduler import kit
from tests.store.test_submission import NOW_S, PAYLOAD, reservation

USAGE = ChatUsage(prompt_tokens=3, cached_tokens=1, completion_tokens=2, kv_bits=KvBits.EIGHT)


@dataclass
class Process:
    """A gateway process, as far as replies go. `heard`: the chats of each message, in order."""

    hub: ReplyHub
    door: SubmissionClient
    heard: list[str] = field(default_factory=list)

    async def submit(self, chat: str) -> Ticket:
        of = kit.ticket(chat, tenant="acme", created_s=NOW_S)
        await self.door.submit(of, PAYLOAD, registry_version=1)
        return of


@asynccontextmanager
async def process(redis_url: str, redis: Connection) -> AsyncIterator[Process]:
    async with connect(redis_url) as connection:
        hub = ReplyHub(connection)
        made = Process(hub, SubmissionClient(connection, reply_channel=hub.channel))
        hear = hub._hear

        def counted(data: bytes) -> None:
            made.heard += [entry[0] for entry in orjson.loads(data)]
            hear(data)

        hub._hear = counted  # type: ignore[method-assign]
        running = asyncio.create_task(hub.run())
        async with asyncio.timeout(10):
            while (await redis.redis.pubsub_numsub(hub.channel))[0][1] == 0:  # noqa: ASYNC110  (it happens in Redis)
                await asyncio.sleep(0.01)
        yield made
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@dataclass
class Two:
    """Two gateway processes, a scheduler and a worker. Nothing is found by polling."""

    one: Process
    other: Process
    redis: Connection
    desk: SchedulerStore
    lease: str
    worker: WorkConsumer

    async def start(self, of: Ticket) -> None:
        """The worker takes the chat."""
        await self.desk.dispatch(self.lease, of, reservation(of))
        [(entry, _)] = await self.worker.take(1, 10)
        await self.worker.claim(entry, of.chat)

    async def write(self, chat: str, place: int) -> None:
        assert await self.worker.write([ReplyPiece(chat, 1, place, str(place), 1)]) == set()

    async def end(self, of: Ticket) -> None:
        await self.worker.settle(of, 1, ReplyEnd(Finish.STOP), usage=USAGE, keep_s=60, now_s=NOW_S)


@pytest.fixture
async def two(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Two]:
    monkeypatch.setattr(replies, "SWEEP_S", 3600.0)
    async with connect(redis_url) as redis:
        await write_registry(redis, 0, Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig())}))
        desk, worker = SchedulerStore(redis), WorkConsumer(redis, "m", "m@0")
        await worker.open()
        lease = await desk.take_lease("", "me", 60_000) or ""
        async with process(redis_url, redis) as one, process(redis_url, redis) as other:
            yield Two(one, other, redis, desk, lease, worker)


async def texts(reader: Reader, until: str) -> str:
    """What comes until a text, in one string."""
    read = ""
    while not read.endswith(until):
        news = await reader.read(5)
        assert news, f"nothing came after {read!r}"
        read += "".join(entry.text for entry in news)
    return read


async def test_a_process_hears_of_its_own_chats_only(two: Two) -> None:
    with two.one.hub.follow("chat-1", QUEUED, fresh=True) as reader:
        mine, others = await two.one.submit("chat-1"), await two.other.submit("chat-2")
        await two.start(mine)
        await two.start(others)
        await two.worker.write([ReplyPiece(name, 1, 1, "1", 1) for name in ("chat-1", "chat-2")])
        await two.write("chat-1", 2)
        assert await texts(reader, "2") == "12"
        await two.end(others)
        await two.end(mine)
        assert [entry.end for entry in await reader.read(5)] == [ReplyEnd(Finish.STOP)]
    assert two.one.heard == ["chat-1", "chat-1", "chat-1"]
    assert two.other.heard == ["chat-2", "chat-2"]


async def test_raw_text_and_logprobs_come_with_their_own_piece_as_news_and_from_the_stream(two: Two) -> None:
    of = await two.one.submit("chat-1")
    pieces = [
        ReplyPiece(of.chat, 1, 1, "1", 1),
        ReplyPiece(of.chat, 1, 2, "2", 1, raw="<2>", logprobs='[{"token":"2"}]'),
        ReplyPiece(of.chat, 1, 3, "3", 1, content=ContentKind.REASONING, raw=""),
        ReplyPiece(of.chat, 1, 4, "4", 2),
    ]
    with two.one.hub.follow(of.chat, QUEUED, fresh=True) as reader:
        await two.start(of)
        await two.worker.write(pieces)
        news = [entry for entry in await reader.read(5) if entry.kind == "text"]
    with two.other.hub.follow(of.chat, "1-0") as reader:
        stored = await reader.read(5)
    assert [entry.logprobs for entry in news] == ["", '[{"token":"2"}]', "", ""]
    assert stored == news
    assert await two.worker.written(of.chat) == ("1<2>4", 5, 1)


async def test_a_refusal_is_heard_by_the_process_that_waits_for_it(two: Two) -> None:
    of = await two.one.submit("chat-1")
    with two.one.hub.follow(of.chat, QUEUED, fresh=True) as reader:
        refused = Decision(of.chat, Outcome.REJECT, Reason.DEADLINE, of.kv_bits)
        await two.desk.refuse(two.lease, of, refused, "too late", NOW_S)
        [entry] = await reader.read(5)
    assert entry.end is not None
    assert two.other.heard == []


async def test_a_stream_that_was_resumed_at_another_process_gets_news_there_and_no_longer_here(two: Two) -> None:
    of = await two.one.submit("chat-1")
    with two.one.hub.follow(of.chat, QUEUED, fresh=True) as here:
        await two.start(of)
        await two.write(of.chat, 1)
        assert await texts(here, "1") == "1"
        with two.other.hub.follow(of.chat, "1-0") as there:
            assert await texts(there, "1") == "1"
            await two.write(of.chat, 2)
            assert await texts(here, "2") == await texts(there, "2") == "2"
    # Both clients are gone; one of them comes back to the other process.
    async with asyncio.timeout(10):
        while await two.redis.redis.hget(keys.chat(of.chat), "followers"):  # noqa: ASYNC110  (it happens in Redis)
            await asyncio.sleep(0.01)
    before = len(two.one.heard)
    with two.other.hub.follow(of.chat, "1-2") as again:
        await two.write(of.chat, 3)
        assert await texts(again, "3") == "3"
        await two.end(of)
        assert [entry.end for entry in await again.read(5)] == [ReplyEnd(Finish.STOP)]
    assert len(two.one.heard) == before
    assert not await two.redis.redis.hexists(keys.chat(of.chat), "followers")


async def test_a_chat_whose_process_was_killed_goes_on_at_another(two: Two) -> None:
    of = await two.one.submit("chat-1")
    await two.start(of)
    await two.write(of.chat, 1)  # nobody follows: that process died
    with two.other.hub.follow(of.chat) as reader:
        assert await texts(reader, "1") == "1"
        await two.write(of.chat, 2)
        assert await texts(reader, "2") == "2"


def test_a_read_of_no_time_ends_on_uvloop_too() -> None:
    """Seen on a GPU host: a stream broke off, because uvloop's handle of a time that is now has no `when`."""

    async def reads() -> list[list[ReplyEntry]]:
        reader = Reader("chat", "0-0")
        seen = []
        for timeout_s in (0.0004, 0.0, 0.0004, 0.0002):
            asyncio.get_running_loop().call_soon(reader.wake)
            seen.append(await reader.read(timeout_s))
        reader.close()
        return seen

    for _ in range(20):
        assert uvloop.run(reads()) == [[]] * 4
