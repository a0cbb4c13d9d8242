"""The socket that all commands share: answers that shift, and a Redis that is silent, gone, or back and empty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import uvloop
from redis.exceptions import ResponseError

from services.store import redis_client as ear
from services.store import redis_keys as keys
from services.store.connection import Connection, QueueUnavailable, connect, translated
from services.store.redis_client import HandoverConnection
from services.store.work import WorkConsumer
from tests.faults.harness.proxy import Proxy
from tests.gateway.driver import until

TIMEOUT_S = 1.0


@pytest.fixture
async def proxy(redis_port: int) -> AsyncIterator[Proxy]:
    async with Proxy(lambda: redis_port).running() as made:
        yield made


@pytest.fixture
async def connection(proxy: Proxy) -> AsyncIterator[Connection]:
    made = Connection(proxy.url, timeout_s=TIMEOUT_S)
    await answering(made)
    yield made
    await made.close()


async def lose_links(proxy: Proxy) -> None:
    """All connections end, with what is on its way in them; new ones are taken."""
    proxy.cut()
    proxy.mend()
    await asyncio.sleep(0.05)
    proxy.go_on()


async def answering(connection: Connection) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await connection.ping()
                return
            except QueueUnavailable:
                await asyncio.sleep(0.05)


async def echo(connection: Connection, word: str) -> str:
    with translated():
        answer = await connection.redis.echo(word)
    return str(answer.decode())


async def test_answers_find_their_callers_when_others_go_away(proxy: Proxy, connection: Connection) -> None:
    proxy.stop()
    asking = [asyncio.create_task(echo(connection, str(number))) for number in range(300)]
    await asyncio.sleep(0.05)
    for task in asking[::3]:
        task.cancel()
    proxy.go_on()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    for number, answer in enumerate(answers):
        if number % 3:
            assert answer == str(number)
        else:
            assert isinstance(answer, asyncio.CancelledError)


async def test_errors_and_blocks_stand_in_their_places(connection: Connection) -> None:
    redis = connection.redis

    async def block(transaction: bool) -> list[object]:
        async with redis.pipeline(transaction=transaction) as pipe:
            pipe.set("word", "w")
            pipe.incr("word")
            pipe.get("word")
            return list(await pipe.execute(raise_on_error=False))

    async def bad() -> None:
        await redis.incr("a list")

    await redis.rpush("a list", "x")
    *blocks, word, error = await asyncio.gather(
        block(True), block(False), block(True), echo(connection, "hello"), bad(), return_exceptions=True
    )
    for done in blocks:
        assert isinstance(done, list)
        assert done[0] is True
        assert isinstance(done[1], ResponseError)
        assert done[2] == b"w"
    assert word == "hello"
    assert isinstance(error, ResponseError)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.incr("a list")
        pipe.set("word", "after")
        with pytest.raises(ResponseError, match="INCR"):
            await pipe.execute()
    assert await redis.get("word") == b"after"  # Redis undoes nothing


async def test_a_silent_redis_costs_each_its_own_timeout(proxy: Proxy, connection: Connection) -> None:
    proxy.stop()
    began = time.monotonic()

    async def late(after_s: float) -> float:
        await asyncio.sleep(after_s)
        asked = time.monotonic()
        with pytest.raises(QueueUnavailable):
            await echo(connection, "x")
        return time.monotonic() - asked

    waits = await asyncio.gather(*(late(after_s) for after_s in (0.0, 0.0, 0.3, 0.6, 1.2, 1.5)))
    assert all(0.9 * TIMEOUT_S < wait_s < 1.5 * TIMEOUT_S for wait_s in waits), waits
    proxy.go_on()
    assert await echo(connection, "back") == "back"
    assert time.monotonic() - began < 4


async def test_who_asked_later_is_answered_when_the_silence_ends(proxy: Proxy, connection: Connection) -> None:
    """Only the command that was late fails, not those behind it on its socket."""
    proxy.stop()
    first = asyncio.create_task(echo(connection, "first"))
    await asyncio.sleep(0.6 * TIMEOUT_S)
    second = asyncio.create_task(echo(connection, "second"))
    await asyncio.sleep(0.6 * TIMEOUT_S)
    proxy.go_on()
    with pytest.raises(QueueUnavailable):
        await first
    assert await second == "second"
    assert await echo(connection, "third") == "third"


async def test_a_caller_that_gave_up_does_not_hide_the_silence(proxy: Proxy, connection: Connection) -> None:
    proxy.stop()
    asking = asyncio.create_task(echo(connection, "x"))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(1.2 * TIMEOUT_S)
    await lose_links(proxy)
    assert await echo(connection, "y") == "y"


async def test_what_a_broken_socket_left_goes_out_once_more_in_order(proxy: Proxy, connection: Connection) -> None:
    proxy.stop()
    adding = [asyncio.create_task(connection.redis.rpush("numbers", number)) for number in range(100)]
    adding[7].cancel()
    await asyncio.sleep(0.05)
    await lose_links(proxy)
    await asyncio.gather(*adding, return_exceptions=True)
    numbers = [int(number) for number in await connection.redis.lrange("numbers", 0, -1)]
    assert numbers == [number for number in range(100) if number != 7]


async def test_nothing_is_sent_a_third_time(proxy: Proxy, connection: Connection) -> None:
    """A command that Redis carries out and whose answers are lost each time."""

    def lose(answer: bytes) -> bytes:
        if not answer.startswith(b":"):  # of connecting
            return answer
        proxy.cut()
        proxy.mend()
        return b""

    proxy.answers = lose
    with pytest.raises(QueueUnavailable), translated():
        await connection.redis.incr("count")
    proxy.answers = None
    assert await connection.redis.get("count") == b"2"


async def test_a_redis_that_refuses_costs_no_wait(proxy: Proxy, connection: Connection) -> None:
    proxy.cut()
    began = time.monotonic()
    answers = await asyncio.gather(*(echo(connection, "x") for _ in range(50)), return_exceptions=True)
    assert all(isinstance(answer, QueueUnavailable) for answer in answers)
    assert time.monotonic() - began < 0.5 * TIMEOUT_S
    proxy.mend()
    assert await echo(connection, "back") == "back"


async def test_a_redis_that_lost_its_scripts_gets_them_anew(connection: Connection) -> None:
    """It came back empty, or somebody flushed them."""

    async def lease(name: str) -> object:
        return await connection.script("lease", [keys.LEASE, keys.FENCE], [name, "n", 60_000])

    assert await lease("") is not None
    await connection.redis.script_flush()
    answers = await asyncio.gather(*(lease("x") for _ in range(5)), echo(connection, "between"))
    assert answers == [None] * 5 + ["between"]


async def test_a_read_that_was_given_up_leaves_nothing_to_the_next(connection: Connection) -> None:
    reading = asyncio.create_task(connection.blocking.blpop(["first"], timeout=30))
    await asyncio.sleep(0.1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await connection.redis.rpush("second", "2")
    assert await connection.blocking.blpop(["second"], timeout=5) == (b"second", b"2")
    both = [asyncio.create_task(connection.blocking.blpop([name], timeout=5)) for name in ("third", "fourth")]
    await asyncio.sleep(0.1)
    await connection.redis.rpush("fourth", "4")
    assert await both[1] == (b"fourth", b"4")  # it did not wait for the one before it
    await connection.redis.rpush("third", "3")
    assert await both[0] == (b"third", b"3")


async def test_a_taking_whose_answer_was_lost_is_not_repeated(
    redis_port: int, proxy: Proxy, connection: Connection
) -> None:
    """The entry is this consumer's then: a second read would not show it."""
    bench = WorkConsumer(connection, "m", "m@0")
    await bench.open()
    taking = asyncio.create_task(bench.take(1, 3000))
    async with connect(f"redis://127.0.0.1:{redis_port}") as direct, asyncio.timeout(10):
        while not (await direct.redis.info("clients"))["blocked_clients"]:  # noqa: ASYNC110  (Redis knows)
            await asyncio.sleep(0.01)
        proxy.stop()
        await direct.redis.xadd(keys.ready("m"), {"chat": "chat-1"})  # its answer is sent before that of this
    await lose_links(proxy)
    with pytest.raises(QueueUnavailable):
        await taking
    assert [chat for _, chat in await bench.mine()] == ["chat-1"]


async def test_news_are_heard_until_the_socket_breaks_or_is_silent(
    proxy: Proxy, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ear, "PING_S", 0.3)
    heard: list[bytes] = []

    async def listening() -> asyncio.Task[None]:
        task = asyncio.create_task(connection.listen("news", heard.append))
        async with asyncio.timeout(5):
            while not dict(await connection.redis.pubsub_numsub("news"))[b"news"]:  # noqa: ASYNC110  (Redis knows)
                await asyncio.sleep(0.01)
        return task

    task = await listening()
    await connection.redis.publish("news", "one")
    await asyncio.sleep(0.7)  # pings go by
    await connection.redis.publish("news", "two")
    await until(lambda: len(heard) > 1)
    assert heard == [b"one", b"two"]
    assert not task.done()
    await lose_links(proxy)
    with pytest.raises(QueueUnavailable):
        await task
    task = await listening()
    proxy.stop()
    async with asyncio.timeout(5):
        with pytest.raises(QueueUnavailable):
            await task
    proxy.go_on()
    task = await listening()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_closed_connection_says_so(proxy: Proxy, connection: Connection) -> None:
    proxy.stop()
    asking = asyncio.create_task(echo(connection, "x"))
    await asyncio.sleep(0.05)
    await connection.close()
    with pytest.raises(QueueUnavailable):
        await asking
    with pytest.raises(QueueUnavailable):
        await echo(connection, "y")


async def test_a_wrong_password_is_an_error_of_its_own(redis_port: int, connection: Connection) -> None:
    await connection.redis.config_set("requirepass", "secret")
    async with asyncio.timeout(5):
        for password, good in (("wrong", False), ("secret", True), (None, False)):
            other = Connection(f"redis://127.0.0.1:{redis_port}", password=password, timeout_s=TIMEOUT_S)
            try:
                await other.ping()
            except QueueUnavailable:
                assert not good
            else:
                assert good
            await other.close()


class Counting:
    """A transport that counts its writes."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.transport = transport
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self.transport, name)


@pytest.mark.parametrize("turns", [0, 1])
def test_commands_of_one_moment_go_out_together(redis_port: int, turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the event loop that all processes use. `turns`: of it, between two commands."""
    made: list[Counting] = []
    hand_over = HandoverConnection.hand_over

    def counted(connection: HandoverConnection, protocol: asyncio.Protocol) -> Counting:
        made.append(Counting(hand_over(connection, protocol)))
        return made[-1]

    monkeypatch.setattr(HandoverConnection, "hand_over", counted)

    async def later(connection: Connection, number: int) -> str:
        for _ in range(number * turns):
            await asyncio.sleep(0)
        return await echo(connection, str(number))

    async def count() -> tuple[list[str], int]:
        connection = Connection(f"redis://127.0.0.1:{redis_port}")
        await answering(connection)
        before = sum(transport.writes for transport in made)
        words = await asyncio.gather(*(later(connection, number) for number in range(100)))
        await connection.close()
        return words, sum(transport.writes for transport in made) - before

    words, writes = uvloop.run(count())
    assert words == [str(number) for number in range(100)]
    assert writes < 10
