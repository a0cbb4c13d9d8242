"""A ready stream that Redis evicted or lost, with its consumer group."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.config.schema import TenantConfig
from services.contracts.chats import KvBits
from services.contracts.replies import Finish, ReplyEnd
from services.store import redis_keys as keys
from services.store.connection import connect
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import write_registry
from services.store.work import Settled
from tests.store.test_submission import NOW_S, Host, ticket


@pytest.fixture
async def host(redis_url: str) -> AsyncIterator[Host]:
    async with connect(redis_url) as connection:
        host = Host(connection)
        await write_registry(connection, 0, Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig())}))
        host.lease = await host.desk.take_lease("", "me", 60_000) or ""
        await host.bench.open()
        yield host


async def test_chats_of_an_evicted_ready_stream_are_taken_all_the_same(host: Host) -> None:
    """Workers logged NOGROUP for ever, and what had been dispatched was never served."""
    running, ready = ticket("chat-1"), ticket("chat-2")
    for chat in (running, ready):
        await host.submit(chat)
        await host.dispatch(chat)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, running.chat)
    await host.connection.redis.delete(keys.ready("m"))
    assert await host.bench.take(10, 10) == []
    taken = {chat: entry for entry, chat in await host.bench.take(10, 10)}
    assert set(taken) == {running.chat, ready.chat}
    end = ReplyEnd(Finish.STOP)
    assert await host.bench.settle(running, 1, end, usage=None, keep_s=60, now_s=NOW_S) is Settled.OK
    assert await host.bench.backlog() == 1
    claim = await host.bench.claim(taken[ready.chat], ready.chat)
    assert claim is not None
    assert await host.bench.settle(ready, claim.attempt, end, usage=None, keep_s=60, now_s=NOW_S) is Settled.OK
    assert await host.bench.backlog() == 0


async def test_a_worker_that_starts_finds_what_was_dispatched_before_the_stream_was_lost(host: Host) -> None:
    await host.submit(chat := ticket())
    await host.dispatch(chat)
    await host.connection.redis.delete(keys.ready("m"))
    await host.bench.open()
    assert [found for _, found in await host.bench.take(10, 10)] == [chat.chat]


async def test_a_worker_whose_redis_lost_everything_goes_on(host: Host) -> None:
    await host.connection.redis.flushall()
    await write_registry(host.connection, 0, Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig())}))
    host.lease = await host.desk.take_lease("", "again", 60_000) or ""
    assert await host.bench.abandoned(1) == await host.bench.mine() == await host.bench.take(1, 10) == []
    await host.submit(chat := ticket())
    await host.dispatch(chat)
    assert [found for _, found in await host.bench.take(10, 10)] == [chat.chat]


async def test_a_lost_chat_that_is_demoted_leaves_nothing(host: Host) -> None:
    """Its hash came back with one field, and stayed for ever."""
    await host.submit(chat := ticket())
    await host.dispatch(chat)
    await host.bench.demoted(chat.chat, KvBits.FOUR)
    [event] = [event for event in (await host.desk.events("0-0", 10))[1] if event.kind == "demoted"]
    assert (event.chat, event.kv_bits) == (chat.chat, KvBits.FOUR)
    assert await host.connection.redis.hget(keys.chat(chat.chat), "kv_bits") == b"4"
    await host.connection.redis.flushall()
    await host.bench.demoted(chat.chat, KvBits.FOUR)
    assert await host.connection.redis.keys("*") == []
