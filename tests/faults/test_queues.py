"""What the queues do when Redis is full, silent, or answers too late to be heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from scheduler.loop import Loop
from scheduler.settings import SchedulerSettings
from services.config.schema import TenantConfig
from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.contracts.replies import Finish, ReplyEnd
from services.store import redis_keys as keys
from services.store.connection import Connection, QueueUnavailable
from services.store.explanations import explain
from services.store.records import encode
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import write_registry
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient, Submitted
from services.store.work import ReplyPiece, WorkConsumer
from tests.faults.harness.proxy import Proxy
from tests.gateway.driver import until
from tests.store.test_submission import PAYLOAD, reservation, ticket

FACTS = EngineFacts("m", "llamacpp", 1, 1, 10**9, {8: 100}, context_tokens=2048, chats_max=8, kv_bits=KvBits.EIGHT)


@pytest.fixture
async def connection(redis_port: int) -> AsyncIterator[Connection]:
    made = Connection(f"redis://127.0.0.1:{redis_port}", timeout_s=2.0)
    async with asyncio.timeout(10):
        while True:
            try:
                await made.ping()
                break
            except QueueUnavailable:
                await asyncio.sleep(0.05)
    registry = Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig())})
    assert await write_registry(made, 0, registry)
    yield made
    await made.close()


async def submit(connection: Connection, chat: str) -> None:
    """A chat that waits."""
    now = time.time()
    asked = replace(ticket(chat), created_s=now, deadline_s=now + 60)
    answer = await SubmissionClient(connection).submit(asked, PAYLOAD, registry_version=1)
    assert answer.outcome is Submitted.OK


async def texts(connection: Connection, chat: str) -> list[bytes]:
    return [values[b"t"] for _, values in await connection.redis.xrange(keys.reply(chat)) if b"t" in values]


async def test_a_piece_that_redis_has_no_room_for_is_not_taken_for_written(connection: Connection) -> None:
    """It was: the refusal was read as "another attempt was faster", and the piece was gone."""
    await submit(connection, "chat-1")
    bench = WorkConsumer(connection, "m", "m@0")
    await connection.redis.hset(keys.chat("chat-1"), "attempt", 1)
    lines = [ReplyPiece("chat-1", 1, 1, "Hel", 1), ReplyPiece("chat-1", 1, 2, "lo", 1)]
    assert await bench.write(lines[:1]) == set()
    await connection.redis.config_set("maxmemory", 1)
    with pytest.raises(QueueUnavailable):
        await bench.write(lines)
    await connection.redis.config_set("maxmemory", 0)
    assert await bench.write(lines) == set()
    assert await texts(connection, "chat-1") == [b"Hel", b"lo"]


async def test_a_silent_way_ends_reads_that_block(redis_port: int, connection: Connection) -> None:
    """They had no bound: a scheduler whose peer vanished waited for it for ever, with the lease run out."""
    await WorkConsumer(connection, "m", "m@0").open()
    async with Proxy(lambda: redis_port).running() as proxy:
        behind = Connection(proxy.url, timeout_s=2.0)
        bench, desk = WorkConsumer(behind, "m", "m@0"), SchedulerStore(behind)
        assert await bench.take(1, 10) == []
        assert (await desk.events("0-0", 10))[1] == []
        proxy.stop()
        half = Connection(proxy.url, timeout_s=2.0)
        half.redis = connection.redis  # only what blocks goes the silent way
        reads: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: bench.take(1, 50),
            lambda: desk.events("0-0", 50),
            lambda: explain(half, "chat-1", 0.05),
        )
        async with asyncio.timeout(30):
            for read in reads:
                with pytest.raises(QueueUnavailable):
                    await read()
        proxy.go_on()
        assert await bench.take(1, 10) == []
        await behind.close()


async def lead(connection: Connection, clock: Callable[[], float]) -> asyncio.Task[None]:
    """A scheduler that has one engine."""
    report = EngineReport("m", clock(), EngineState.READY)
    await WorkConsumer(connection, "m", "m@0").publish_engine(FACTS, report)
    loop = Loop(SchedulerStore(connection), SchedulerSettings, name="test", clock=clock)
    return asyncio.create_task(loop.run())


async def test_a_question_that_falls_into_a_take_over_is_answered(connection: Connection) -> None:
    """It was asked before the new scheduler began to hear."""
    asked = asyncio.create_task(explain(connection, "chat-1", 4.0))
    await asyncio.sleep(0.3)
    leading = await lead(connection, time.time)
    assert (await asked).state == "unknown"
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)


async def leader(connection: Connection, unlike: bytes | None = None) -> bytes:
    """Who holds the lease, once it is another."""
    async with asyncio.timeout(10):
        while True:
            holder: bytes | None = await connection.redis.get(keys.LEASE)
            if holder not in {None, unlike}:
                assert holder is not None
                return holder
            await asyncio.sleep(0.02)


async def test_a_lease_that_a_clock_has_made_long_is_free_again_soon(connection: Connection) -> None:
    """Its holder is dead, and Redis's clock went back an hour after it was given."""
    desk = SchedulerStore(connection)
    assert await desk.take_lease("", "dead", 3_600_000)
    assert await desk.take_lease("", "next", 300) is None
    await asyncio.sleep(0.5)
    assert await desk.take_lease("", "next", 300)


async def test_a_lease_that_ran_out_is_taken_up_at_once(connection: Connection) -> None:
    leading = await lead(connection, time.time)
    first = await leader(connection)
    await connection.redis.delete(keys.LEASE)  # as a clock that jumps ahead does
    await leader(connection, unlike=first)
    await connection.redis.persist(keys.LEASE)  # were it somebody else's, it would be so for ever
    await asyncio.sleep(0.5)  # whoever led before has heard of it: until then it answers still
    assert (await explain(connection, "chat-1", 4.0)).state == "unknown", "nobody leads"
    leading.cancel()
    await asyncio.gather(leading, return_exceptions=True)


async def reserved(connection: Connection) -> int | None:
    """KV bytes that the scheduler says are reserved."""
    snapshot = await SubmissionClient(connection).snapshot()
    model = snapshot.models.get("m") if snapshot else None
    return None if model is None else model.reserved_bytes


async def _until(connection: Connection, wanted: int) -> None:
    async with asyncio.timeout(20):
        while await reserved(connection) != wanted:  # noqa: ASYNC110  (what is waited for happens in Redis)
            await asyncio.sleep(0.05)


async def test_a_reservation_that_the_scheduler_never_heard_of_is_counted(connection: Connection) -> None:
    """A dispatch whose answer was lost: Redis has done it, the books have not."""
    leading = await lead(connection, time.time)
    try:
        await _until(connection, 0)
        held = reservation(ticket("chat-9"))
        await connection.redis.hset(keys.RESERVATIONS, "chat-9", encode(held))
        await _until(connection, held.reserved_bytes)
        await connection.redis.hdel(keys.RESERVATIONS, "chat-9")
        await _until(connection, 0)
    finally:
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0])
async def test_a_clock_that_jumps_stops_no_scheduler(connection: Connection, jump_s: float) -> None:
    """It did, by as long as the clock went back: no look at engines, no snapshot, no admission by fresh load."""
    skew_s = 0.0

    def clock() -> float:
        return time.time() + skew_s

    leading = await lead(connection, clock)
    try:
        await _until(connection, 0)
        skew_s = jump_s
        await connection.redis.delete(keys.SNAPSHOT)
        await WorkConsumer(connection, "m", "m@0").publish_engine(FACTS, EngineReport("m", clock(), EngineState.READY))
        await _until(connection, 0)
        now = clock()
        asked = replace(ticket("chat-1"), created_s=now, deadline_s=now + 60)
        await SubmissionClient(connection).submit(asked, PAYLOAD, registry_version=1)
        states: list[str] = []

        async def look() -> None:
            info = await SubmissionClient(connection).chat("chat-1")
            states.append(info.state if info else "")

        async with asyncio.timeout(20):
            while "ready" not in states:
                await WorkConsumer(connection, "m", "m@0").publish_engine(
                    FACTS, EngineReport("m", clock(), EngineState.READY)
                )
                await look()
                await asyncio.sleep(0.1)
    finally:
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
    await until(leading.done)


async def test_a_waiting_chat_that_was_taken_up_is_not_cancelled_by_the_client_before(connection: Connection) -> None:
    """Between looking who reads it and taking it out of the queue, a retry may join it."""
    await submit(connection, "chat-1")
    door = SubmissionClient(connection)
    info = await door.follow("chat-1", "acme", take=True)
    assert info is not None
    assert not await door.cancel(info.ticket, 60, time.time(), leaving="first")
    assert not await door._refuse(info.ticket, ReplyEnd(Finish.CANCELLED), 60, time.time(), unread=True)
    assert not await door.cancel(info.ticket, 60, time.time(), leaving="first"), "sent again, it counts once"
    again = await door.chat("chat-1")
    assert again is not None
    assert again.state == "waiting"
    assert await door.cancel(info.ticket, 60, time.time(), leaving="second")


async def test_sessions_that_are_over_leave_the_index(connection: Connection) -> None:
    """They stayed in it until an operator looked at the list."""
    await connection.redis.zadd(keys.SESSIONS, {"acme long-ago": 1_000.0})
    await submit(connection, "chat-1")
    assert await connection.redis.zrange(keys.SESSIONS, 0, -1) == [b"acme s"]
