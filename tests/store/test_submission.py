"""The life of a chat in a real Redis, with all three sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from services.config.schema import LimitsConfig, TenantConfig
from services.contracts.chats import ChatUsage, KvBits, Payload, Sampling, Ticket
from services.contracts.control import ControlMessage
from services.contracts.decisions import Decision, Outcome, Reason, Reservation
from services.contracts.replies import Finish, ReplyEnd, ReplyEntry, ReplyError
from services.store import redis_keys as keys
from services.store.charges import RateWindow, windows_of
from services.store.connection import Connection, connect
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import write_registry
from services.store.replies import ReplyHub
from services.store.scheduling import Dispatched, SchedulerStore
from services.store.submission import SubmissionClient, Submitted
from services.store.work import ReplyPiece, Settled, WorkConsumer
from tests.scheduler import kit

NOW_S = 1_800_000_000.0
PAYLOAD = Payload(prompt=(1, 2, 3), salt="s", sampling=Sampling(stop=(".",)))
USAGE = ChatUsage(
    prompt_tokens=3, cached_tokens=1, completion_tokens=2, kv_bits=KvBits.EIGHT, kv_byte_seconds=1.5, queue_s=0.25
)


def ticket(chat: str = "chat-1", tenant: str = "acme") -> Ticket:
    return kit.ticket(
        chat,
        tenant,
        bot=f"{tenant}/support",
        session="s",
        prompt_tokens=3,
        max_tokens=10,
        kv_bits=KvBits.EIGHT,
        created_s=NOW_S,
        deadline_s=NOW_S + 60,
    )


def reservation(of: Ticket) -> Reservation:
    return Reservation(of.chat, of.tenant, of.session, of.model, of.kv_bits, 1300, NOW_S + 0.25, of.tokens_max)


class Host:
    """Three sides over one connection, and a lease."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.door = SubmissionClient(connection, waiting_max=3, waiting_per_tenant_max=2)
        self.desk = SchedulerStore(connection)
        self.bench = WorkConsumer(connection, "m", "m@0")
        self.hub = ReplyHub(connection)
        self.lease = ""

    async def submit(self, of: Ticket) -> Submitted:
        return (await self.door.submit(of, PAYLOAD, registry_version=1)).outcome

    async def dispatch(self, of: Ticket) -> Dispatched:
        return await self.desk.dispatch(self.lease, of, reservation(of))


@pytest.fixture
async def host(redis_url: str) -> AsyncIterator[Host]:
    async with connect(redis_url) as connection:
        host = Host(connection)
        registry = Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig())})
        assert await write_registry(connection, 0, registry)
        host.lease = await host.desk.take_lease("", "me", 5000) or ""
        await host.bench.open()
        hub = asyncio.create_task(host.hub.run())
        yield host
        hub.cancel()
        await asyncio.gather(hub, return_exceptions=True)


async def test_a_chat_is_answered_and_leaves_nothing_behind(host: Host) -> None:
    chat = ticket()
    assert await host.submit(chat) is Submitted.OK
    assert await host.desk.waiting() == [chat]
    assert await host.dispatch(chat) is Dispatched.OK
    assert await host.desk.reservations() == [reservation(chat)]
    [(entry, taken)] = await host.bench.take(5, 10)
    claim = await host.bench.claim(entry, taken)
    assert claim is not None
    assert (claim.ticket, claim.payload, claim.attempt, claim.queue_s) == (chat, PAYLOAD, 1, 0.25)
    await host.bench.write([ReplyPiece(chat.chat, 1, 1, "Hel", 1), ReplyPiece(chat.chat, 1, 2, "lo", 1)])
    end = ReplyEnd(Finish.STOP, USAGE)
    assert await host.bench.settle(chat, 1, end, usage=USAGE, keep_s=60, now_s=NOW_S) is Settled.OK

    with host.hub.follow(chat.chat) as reader:
        entries = await reader.read(2)
    assert [entry.text for entry in entries if entry.kind == "text"] == ["Hel", "lo"]
    assert entries[-1].end == end
    assert await host.desk.waiting() == []
    assert await host.desk.reservations() == []
    assert await host.connection.redis.xlen(keys.ready("m")) == 0
    stored = await host.connection.redis.hgetall(keys.usage("2027-01-15", "acme", "acme/support"))
    assert {name: float(value) for name, value in stored.items()} == {
        b"chats": 1,
        b"finish:stop": 1,
        b"prompt_tokens": 3,
        b"cached_tokens": 1,
        b"completion_tokens": 2,
        b"kv_byte_seconds": 1.5,
        b"queue_seconds": 0.25,
    }


async def test_what_a_dead_workers_chat_held_is_known_to_the_next(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    await host.dispatch(chat)
    [(entry, _)] = await host.bench.take(1, 10)

    async def so_far() -> float:
        claim = await host.bench.claim(entry, chat.chat)
        assert claim is not None
        return claim.kv_byte_seconds

    assert await so_far() == 0.0
    await host.bench.held({chat.chat: (1, 2.5), "forgotten": (1, 1.0)})
    assert await so_far() == 2.5
    await host.bench.held({chat.chat: (2, 4.0)})
    await host.bench.held({chat.chat: (2, 4.5)})
    await host.bench.held({chat.chat: (1, 99.0)})  # it does not know yet that it is fenced
    assert await so_far() == 4.5
    assert not await host.connection.redis.exists(keys.chat("forgotten"))


async def test_a_follower_gets_pieces_as_they_are_written_and_may_start_in_the_middle(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    await host.dispatch(chat)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, chat.chat)
    with host.hub.follow(chat.chat) as whole:
        seen: list[ReplyEntry] = []
        for number in range(1, 4):
            await host.bench.write([ReplyPiece(chat.chat, 1, number, str(number), 1)])
            while not seen or seen[-1].text != str(number):
                news = await whole.read(2)
                assert news, "a piece did not arrive"
                seen += news
        with host.hub.follow(chat.chat, after="1-1") as rest:
            later = await rest.read(2)
    assert [item.text for item in seen if item.kind == "text"] == ["1", "2", "3"]
    assert [item.text for item in later] == ["2", "3"]


async def test_what_cannot_be_read_is_its_own_readers_trouble(host: Host) -> None:
    """It used to end the relay of the whole process, and a stream that Redis refused to read held up all others."""
    redis = host.connection.redis
    await redis.xadd(keys.reply("another version's"), {"k": "end", "d": "no end"}, id="1-1")
    await redis.set(keys.reply("no stream"), "1")
    for name in ("another version's", "no stream"):
        await redis.hset(keys.chat(name), "state", "running")
    for news in (b"no JSON", b"7", b"[[1]]", b'[["chat-1", "0-0", "1-1", {"b": "x"}]]'):
        await redis.publish(host.hub.channel, news)
    chat = ticket()
    with host.hub.follow("another version's") as first, host.hub.follow("no stream") as second:
        with host.hub.follow(chat.chat, fresh=True) as reader:
            await redis.publish(host.hub.channel, b'[["chat-1", "0-0", "1-1", {"b": "x"}]]')
            await asyncio.sleep(0.05)
            await host.submit(chat)
            assert [entry.kind for entry in await reader.read(5)] == ["queued"]
        assert await first.read(0.01) == await second.read(0.01) == []


async def test_a_second_worker_fences_the_first(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    await host.dispatch(chat)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, chat.chat)
    await host.bench.write([ReplyPiece(chat.chat, 1, 1, "one ", 2)])
    other = WorkConsumer(host.connection, "m", "m@1")
    assert await other.abandoned(0) == [(entry, chat.chat)]
    claim = await other.claim(entry, chat.chat)
    assert claim is not None
    assert claim.attempt == 2
    assert await other.written(chat.chat) == ("one ", 2, 0)
    assert await host.bench.write([ReplyPiece(chat.chat, 1, 2, "DOUBLE", 1)]) == {chat.chat}
    assert await other.write([ReplyPiece(chat.chat, 2, 1, "two", 1)]) == set()
    late = ReplyEnd(Finish.STOP)
    assert await host.bench.settle(chat, 1, late, usage=None, keep_s=60, now_s=NOW_S) is Settled.FENCED
    assert await other.settle(chat, 2, late, usage=None, keep_s=60, now_s=NOW_S) is Settled.OK
    assert (await other.written(chat.chat)).text == "one two"
    assert await other.settle(chat, 2, late, usage=None, keep_s=60, now_s=NOW_S) is Settled.DONE


async def test_writing_a_line_twice_is_harmless(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    await host.dispatch(chat)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, chat.chat)
    line = ReplyPiece(chat.chat, 1, 1, "once", 1)
    assert await host.bench.write([line]) == set()
    assert await host.bench.write([line]) == set()
    assert await host.bench.written(chat.chat) == ("once", 1, 0)


async def test_queues_are_bounded_for_a_tenant_and_in_all(host: Host) -> None:
    assert [await host.submit(ticket(f"a{n}")) for n in range(3)] == [Submitted.OK, Submitted.OK, Submitted.TENANT_FULL]
    assert await host.submit(ticket("b0", "globex")) is Submitted.OK
    assert await host.submit(ticket("c0", "initech")) is Submitted.FULL
    assert await host.dispatch(ticket("a0")) is Dispatched.OK
    assert await host.submit(ticket("c0", "initech")) is Submitted.OK


LIMITS = LimitsConfig(requests_per_minute=10, tokens_per_minute=100, tokens_per_month=1000)


async def submit_charged(host: Host, of: Ticket) -> Sequence[RateWindow]:
    """Submit, and see it charged."""
    windows = windows_of(of.tenant, LIMITS, of.tokens_max, NOW_S)
    submitted = await host.door.submit(of, PAYLOAD, registry_version=1, windows=windows)
    assert submitted.outcome is Submitted.OK
    assert await used(host, windows) == [1, of.tokens_max, of.tokens_max]
    return windows


async def used(host: Host, windows: Sequence[RateWindow]) -> list[int | None]:
    found = await host.connection.redis.mget([window.key for window in windows])
    return [None if count is None else int(count) for count in found]


async def test_a_settled_chat_gives_back_what_it_did_not_take_once(host: Host) -> None:
    chat = ticket()
    windows = await submit_charged(host, chat)
    await host.dispatch(chat)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, chat.chat)
    assert await host.door.cancel(chat, keep_s=60, now_s=NOW_S)
    for answer in (Settled.OK, Settled.DONE):
        end = ReplyEnd(Finish.CANCELLED, USAGE)
        assert await host.bench.settle(chat, 1, end, usage=USAGE, keep_s=60, now_s=NOW_S) is answer
        assert await used(host, windows) == [1, 5, 5]


async def test_a_chat_that_the_host_fails_gives_back_everything(host: Host) -> None:
    failed = ticket("failed")
    windows = await submit_charged(host, failed)
    await host.dispatch(failed)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, failed.chat)
    end = ReplyEnd(Finish.ERROR, error=ReplyError("engine_failed", "It broke."))
    await host.bench.settle(failed, 1, end, usage=None, keep_s=60, now_s=NOW_S)
    assert await used(host, windows) == [0, 0, 0]


@pytest.mark.parametrize("refused", [True, False])
async def test_a_chat_that_was_never_let_in_gives_back_its_tokens(host: Host, refused: bool) -> None:
    chat = ticket()
    windows = await submit_charged(host, chat)
    if refused:
        decision = Decision(chat.chat, Outcome.REJECT, Reason.DEADLINE, KvBits.EIGHT)
        assert await host.desk.refuse(host.lease, chat, decision, "Too late.", NOW_S) is Dispatched.OK
    else:
        assert await host.door.cancel(chat, keep_s=60, now_s=NOW_S)
        assert not await host.door.cancel(chat, keep_s=60, now_s=NOW_S)
    assert await used(host, windows) == [0 if refused else 1, 0, 0], "the request too, if the host refused the chat"


async def test_a_window_that_is_over_does_not_come_back(host: Host) -> None:
    chat = ticket()
    windows = await submit_charged(host, chat)
    await host.connection.redis.delete(*(window.key for window in windows[:2]))
    assert await host.door.cancel(chat, keep_s=60, now_s=NOW_S)
    assert await used(host, windows) == [None, None, 0]


async def test_an_old_registry_version_is_refused(host: Host) -> None:
    answer = await host.door.submit(ticket(), PAYLOAD, registry_version=0)
    assert answer.outcome is Submitted.STALE
    assert await host.desk.waiting() == []


async def test_an_idempotency_key_gives_the_same_chat(host: Host) -> None:
    first = await host.door.submit(ticket("a"), PAYLOAD, registry_version=1, idempotency_key="k")
    again = await host.door.submit(ticket("b"), PAYLOAD, registry_version=1, idempotency_key="k")
    assert (first.outcome, again.outcome, again.chat) == (Submitted.OK, Submitted.SAME, "a")
    assert len(await host.desk.waiting()) == 1


async def test_a_waiting_chat_is_cancelled_and_cannot_be_dispatched(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    assert await host.door.cancel(chat, keep_s=60, now_s=NOW_S)
    assert await host.dispatch(chat) is Dispatched.GONE
    assert await host.desk.reservations() == []
    assert not await host.door.cancel(chat, keep_s=60, now_s=NOW_S)


async def test_cancelling_a_running_chat_reaches_its_worker_both_ways(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    await host.dispatch(chat)
    heard = asyncio.ensure_future(anext(host.bench.commands()))
    channel = keys.control_channel("m")
    while await host.connection.redis.pubsub_numsub(channel) != [(channel.encode(), 1)]:  # noqa: ASYNC110  (Redis knows when the subscription stands)
        await asyncio.sleep(0.01)
    assert await host.door.cancel(chat, keep_s=60, now_s=NOW_S)
    assert await heard == ControlMessage(cancel=chat.chat)
    assert await host.bench.cancelled([chat.chat, "other"]) == {chat.chat}
    [(entry, _)] = await host.bench.take(1, 10)
    claim = await host.bench.claim(entry, chat.chat)
    assert claim is not None
    assert claim.cancelled


async def test_only_the_holder_of_the_lease_dispatches(host: Host) -> None:
    await host.submit(ticket())
    other = SchedulerStore(host.connection)
    assert await other.take_lease("", "other", 5000) is None
    await host.desk.give_lease(host.lease)
    taken = await other.take_lease("", "other", 5000)
    assert taken is not None
    assert taken != host.lease
    assert await host.dispatch(ticket()) is Dispatched.FENCED
    assert len(await host.desk.waiting()) == 1


async def test_a_refusal_ends_the_reply_with_its_reason(host: Host) -> None:
    chat = ticket()
    await host.submit(chat)
    decision = Decision(chat.chat, Outcome.REJECT, Reason.DEADLINE, KvBits.EIGHT, retry_after_s=3.0)
    assert await host.desk.refuse(host.lease, chat, decision, "Too late.", NOW_S) is Dispatched.OK
    info = await host.door.chat(chat.chat)
    assert info is not None
    assert info.state == "done"
    entries = await host.connection.redis.xrange(keys.reply(chat.chat))
    assert b'"code":"deadline"' in entries[-1][1][b"d"]
    assert b'"retry_after_s":3.0' in entries[-1][1][b"d"]


async def test_the_scheduler_hears_of_everything_in_order(host: Host) -> None:
    start = await host.desk.last_event()
    one, two = ticket("one"), ticket("two")
    await host.submit(one)
    await host.submit(two)
    await host.door.cancel(two, keep_s=60, now_s=NOW_S)
    await host.dispatch(one)
    [(entry, _)] = await host.bench.take(1, 10)
    await host.bench.claim(entry, "one")
    await host.bench.settle(one, 1, ReplyEnd(Finish.STOP, USAGE), usage=USAGE, keep_s=60, now_s=NOW_S)
    place, events = await host.desk.events(start, 10)
    assert [(event.kind, event.chat) for event in events] == [
        ("arrive", "one"),
        ("arrive", "two"),
        ("cancel", "two"),
        ("settle", "one"),
    ]
    assert events[0].ticket == one
    assert events[3].usage == replace(USAGE)
    assert await host.desk.events(place, 10) == (place, [])


async def test_events_heard_long_ago_are_forgotten_and_nothing_younger(host: Host) -> None:
    redis = host.connection.redis
    many = 500  # Redis deletes whole nodes of a stream, of about a hundred entries
    for number in range(many):
        await redis.xadd(keys.EVENTS, {"k": "cancel", "d": "{}"}, id=f"{1_000_000 + number}-0")
    heard = f"{1_000_000 + many - 1}-0"
    await host.desk.forget_events(heard)
    assert await redis.xlen(keys.EVENTS) == many, "the last minute of them stays"
    young = "1100000-0"
    await redis.xadd(keys.EVENTS, {"k": "cancel", "d": "{}"}, id=young)
    await host.desk.forget_events(young)
    assert await redis.xlen(keys.EVENTS) < many / 2
    assert await host.desk.last_event() == young
