"""What other providers cost is counted before a chat goes there, so that no tenant's month gets dearer than its cap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from scheduler.loop import Loop
from scheduler.settings import SchedulerSettings, TenantShare
from services.contracts.chats import ChatUsage, KvBits, Payload, Ticket, TokenPrice
from services.contracts.engines import EngineReport, EngineState, provider_model
from services.contracts.replies import Finish, ReplyEnd, ReplyError
from services.store import redis_keys as keys
from services.store.charges import month_of
from services.store.connection import Connection, connect
from services.store.registry import Registry
from services.store.registry_edit import write_registry
from services.store.scheduling import Dispatched, SchedulerStore
from services.store.submission import CHAT_KEEP_S, SubmissionClient, Submitted
from services.store.work import Settled, WorkConsumer
from tests.gateway.driver import until
from tests.scheduler.kit import facts, ticket

USD_PER_MILLION = 10_000.0
MICROUSD = 1_000_000  # that a chat of 100 tokens costs then
CAP = 3 * MICROUSD
PROVIDER = provider_model("second")


class Host:
    """A waiting room, a desk that holds the lease, and the provider's worker."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.door = SubmissionClient(connection)
        self.desk = SchedulerStore(connection)
        self.worker = WorkConsumer(connection, PROVIDER, "second@0", served_by="openai/other")
        self.lease = ""

    async def submit(self, chat: str, *, ago_s: float = 0.0, tokens: int = 100) -> Ticket:
        now_s = time.time()
        made = ticket(
            chat,
            tokens=tokens,
            overflow=True,
            overflow_to="second",
            created_s=now_s - ago_s,
            deadline_s=now_s + 60,
        )
        answer = await self.door.submit(made, Payload("hello", "salt"), registry_version=1)
        assert answer.outcome is Submitted.OK
        return made

    async def overflow(self, chat: Ticket, microusd_max: int | None = CAP) -> Dispatched:
        return await self.desk.overflow(self.lease, chat, 0.0, microusd=MICROUSD, microusd_max=microusd_max)

    async def end(self, finish: Finish, microusd: int | None) -> Settled:
        """Settle the chat that the provider's worker finds first. None: its usage is not known."""
        [(entry, chat)] = await self.worker.take(1, 1000)
        claim = await self.worker.claim(entry, chat)
        assert claim is not None
        usage = None if microusd is None else ChatUsage(50, 0, 5, KvBits.SIXTEEN, overflow_microusd=microusd)
        error = ReplyError("engine_failed", "no") if finish is Finish.ERROR else None
        end = ReplyEnd(finish, usage, error, "openai/other")
        return await self.worker.settle(claim.ticket, 1, end, usage=usage, keep_s=60, now_s=time.time())

    async def spent(self, of: Ticket) -> int:
        return int(await self.connection.redis.get(keys.spent(month_of(of.created_s), of.tenant)) or 0)


@pytest.fixture
async def host(redis_url: str) -> AsyncIterator[Host]:
    async with connect(redis_url) as connection:
        assert await write_registry(connection, 0, Registry(version=1))
        host = Host(connection)
        await host.worker.open()
        yield host


async def test_no_more_goes_out_than_the_cap_pays_for(host: Host) -> None:
    host.lease = await host.desk.take_lease("", "me", 5000) or ""
    chats = [await host.submit(f"c{number}") for number in range(5)]
    answers = [await host.overflow(chat) for chat in chats]
    assert answers == [Dispatched.OK] * 3 + [Dispatched.UNPAID] * 2
    assert await host.overflow(chats[0]) is Dispatched.GONE
    assert await host.spent(chats[0]) == CAP
    assert [chat.chat for chat in await host.desk.waiting()] == ["c3", "c4"]
    assert await host.overflow(chats[3], None) is Dispatched.OK, "without a cap"


@pytest.mark.parametrize(
    ("finish", "microusd"),
    [
        (Finish.STOP, 550_000),
        (Finish.STOP, MICROUSD + 7),
        (Finish.STOP, 0),
        (Finish.ERROR, None),
        (Finish.ERROR, 20_000),
        (Finish.CANCELLED, None),
    ],
)
async def test_what_a_chat_did_not_take_comes_back(host: Host, finish: Finish, microusd: int | None) -> None:
    host.lease = await host.desk.take_lease("", "me", 5000) or ""
    chat = await host.submit("c")
    assert await host.overflow(chat) is Dispatched.OK
    assert await host.spent(chat) == MICROUSD
    assert await host.end(finish, microusd) is Settled.OK
    assert await host.spent(chat) == (microusd or 0)
    settled_again = ReplyEnd(finish, served_by="openai/other")
    again = await host.worker.settle(chat, 1, settled_again, usage=None, keep_s=60, now_s=time.time())
    assert (again, await host.spent(chat)) == (Settled.DONE, microusd or 0)


async def test_money_of_a_chat_that_was_forgotten_before_a_worker_came_is_there_again(host: Host) -> None:
    """The provider's worker was away for six hours: Redis kept the chat no longer."""
    host.lease = await host.desk.take_lease("", "me", 5000) or ""
    forgotten, ended, waiting = [await host.submit(chat) for chat in ("forgotten", "ended", "waiting")]
    for chat in (forgotten, ended):
        assert await host.overflow(chat, 2 * MICROUSD) is Dispatched.OK
    assert await host.overflow(waiting, 2 * MICROUSD) is Dispatched.UNPAID
    await host.connection.redis.delete(keys.chat(forgotten.chat), keys.reply(forgotten.chat))
    [(entry, _)] = await host.worker.take(1, 1000)
    assert [await host.worker.claim(entry, forgotten.chat) for _ in range(2)] == [None, None]
    assert await host.spent(forgotten) == MICROUSD, "of the chat that is not forgotten"
    assert await host.overflow(waiting, 2 * MICROUSD) is Dispatched.OK
    assert await host.end(Finish.STOP, 7) is Settled.OK
    assert await host.spent(ended) == MICROUSD + 7
    assert await host.worker.backlog() == 1


async def test_a_chat_that_a_worker_takes_late_is_not_forgotten_while_it_runs(host: Host) -> None:
    """It was fenced in the middle of its answer, which the provider had been paid for, and nobody was billed."""
    host.lease = await host.desk.take_lease("", "me", 5000) or ""
    late = await host.submit("late")
    assert await host.overflow(late) is Dispatched.OK
    kept = keys.chat(late.chat), keys.reply(late.chat)
    for name in kept:
        assert await host.connection.redis.expire(name, 60)
    [(entry, chat)] = await host.worker.take(1, 1000)
    assert await host.worker.claim(entry, chat) is not None
    assert [await host.connection.redis.ttl(name) > CHAT_KEEP_S - 60 for name in kept] == [True, True]


async def test_a_chat_counts_in_the_month_in_which_it_was_asked_for(host: Host) -> None:
    host.lease = await host.desk.take_lease("", "me", 5000) or ""
    chat = await host.submit("c", ago_s=40 * 86_400)
    await host.overflow(chat)
    await host.end(Finish.STOP, 5)
    assert await host.spent(chat) == 5
    assert await host.spent(replace(chat, created_s=time.time())) == 0


@asynccontextmanager
async def scheduling(host: Host, cap: int | None = CAP) -> AsyncIterator[None]:
    """A scheduler with a full engine, whose tenant `a` has a cap, and a provider that is heard of."""
    settings = SchedulerSettings(
        shares={"a": TenantShare(overflow_microusd_max=cap)},
        overflow_after_s=0.5,
        overflow_prices={"second": TokenPrice(USD_PER_MILLION, USD_PER_MILLION)},
        telemetry_age_s_max=60.0,
    )
    here, provider = WorkConsumer(host.connection, "m", "m@0"), replace(facts(PROVIDER), engine="overflow")
    now_s = time.time()
    await here.publish_engine(facts(chats_max=0), EngineReport("m", now_s, EngineState.READY))
    await host.worker.publish_engine(provider, EngineReport(PROVIDER, now_s, EngineState.READY))
    leading = asyncio.create_task(Loop(host.desk, lambda: settings, name="test", clock=time.time).run())
    try:
        yield
    finally:
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)


async def backlog(host: Host, wanted: int) -> None:
    """Wait until so many chats are with the provider's worker."""
    async with asyncio.timeout(20):
        while await host.worker.backlog() != wanted:  # noqa: ASYNC110  (Redis tells nobody)
            await asyncio.sleep(0.05)


async def test_chats_without_money_wait_until_there_is_some(host: Host) -> None:
    chats = [await host.submit(f"c{number}", ago_s=10.0) for number in range(20)]
    async with scheduling(host):
        await backlog(host, 3)
        await asyncio.sleep(1.5)  # they are looked at again each second
        assert await host.worker.backlog() == 3
        assert await host.spent(chats[0]) == CAP
        assert len(await host.desk.waiting()) == 17
        await host.end(Finish.ERROR, None)
        await backlog(host, 3)
        await host.end(Finish.STOP, MICROUSD // 2)
        await asyncio.sleep(1.5)
        assert await host.worker.backlog() == 2, "half of the price does not pay for another one"
    assert await host.spent(chats[0]) == CAP - MICROUSD // 2


async def test_a_tenant_with_less_than_was_thought_is_not_asked_for_in_a_tight_loop(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler reads what was spent once a second; here it reads nothing, and Redis knows better each time."""
    asked: list[str] = []
    overflow = host.desk.overflow

    async def counted(lease: str, chat: Ticket, waited_s: float, **money: Any) -> Dispatched:
        asked.append(chat.chat)
        return await overflow(lease, chat, waited_s, **money)

    async def nothing(tenants: list[str], now_s: float) -> list[int]:
        return [0 for _ in tenants]

    monkeypatch.setattr(host.desk, "overflow", counted)
    monkeypatch.setattr(host.desk, "spent", nothing)
    await host.connection.redis.set(keys.spent(month_of(time.time()), "a"), CAP)
    await host.submit("c", ago_s=10.0)
    async with scheduling(host):
        began_s = time.monotonic()
        await until(lambda: asked)
        await asyncio.sleep(2.5)
        took_s = time.monotonic() - began_s
    assert set(asked) == {"c"}
    assert len(asked) <= 2 + took_s
    assert [chat.chat for chat in await host.desk.waiting()] == ["c"]


async def test_what_waiting_cannot_help_is_refused_where_it_cannot_be_paid_for(host: Host) -> None:
    chat = await host.submit("c", tokens=2000)
    async with scheduling(host, cap=MICROUSD), asyncio.timeout(20):
        while (info := await host.door.chat("c")) is None or info.state != "done":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert info.finish is Finish.ERROR
    assert await host.spent(chat) == 0
