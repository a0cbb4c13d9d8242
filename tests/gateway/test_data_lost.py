"""Redis comes back empty, or forgets a stream. A host serves again without a restart of any of its parts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.store import redis_keys as keys
from services.store.submission import ChatInfo, Submission

from .conftest import ACME, Host
from .driver import Script, until
from .test_bad_input import GOOD, error_of


async def test_chats_under_way_end_with_a_503_and_new_ones_are_served(host: Host) -> None:
    """Valid keys got 401, and a stream was silent for 301 s."""
    host.driver.script_for = lambda _: Script(pieces=["one ", "two"], pause_s=600.0)
    asking = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.tickets, 10)
    await host.connection.redis.flushall()
    host.driver.lease = await host.driver.desk.take_lease("", "again", 60_000) or ""
    error_of(lost := await asyncio.wait_for(asking, 10), 503, "queue_unavailable")
    assert lost.headers["retry-after"]
    host.driver.script_for = lambda _: Script(pieces=["fine"])
    await host.driver.bench.open()
    assert (await host.ask(GOOD)).status_code == 200
    assert (await host.connection.redis.hget(keys.REGISTRY, "version")) is not None


async def a_sweep(host: Host) -> None:
    """Return when the gateway has looked at all chats once more, from beginning to end."""
    hub, looks = host.state.hub, 0
    look = hub._read_all

    async def counted() -> None:
        nonlocal looks
        await look()
        looks += 1

    hub._read_all = counted  # type: ignore[method-assign]
    await until(lambda: looks >= 2, 10)  # the first may have begun before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("moment", ["before the gateway knows", "before the gateway reads", "while it reads"])
async def test_a_chat_that_waits_ends_with_a_503_whenever_it_was_lost(host: Host, moment: str, stream: bool) -> None:
    """Two streams stayed open for ever: their chats came and went between two looks of the gateway."""
    host.driver.script_for = lambda _: Script(ignore=True)
    submissions = host.state.submissions
    submit, asked = submissions.submit, asyncio.Event()

    async def submitted(*given: Any, **named: Any) -> Submission:
        answer = await submit(*given, **named)
        if moment != "while it reads":
            await host.connection.redis.flushall()
        if moment == "before the gateway knows":
            await a_sweep(host)
        asked.set()
        return answer

    submissions.submit = submitted  # type: ignore[method-assign]
    asking = asyncio.create_task(host.ask(GOOD | {"stream": stream}))
    await asyncio.wait_for(asked.wait(), 15)
    if moment == "while it reads":
        await a_sweep(host)
        await host.connection.redis.flushall()
    error_of(lost := await asyncio.wait_for(asking, 10), 503, "queue_unavailable")
    assert lost.headers["retry-after"]
    assert not host.state.readers


async def test_a_stream_that_is_taken_up_as_its_chat_is_lost_ends_with_a_503(host: Host) -> None:
    host.driver.script_for = lambda _: Script(ignore=True)
    asking = asyncio.create_task(host.ask(GOOD | {"stream": True}))
    await until(lambda: host.driver.tickets, 10)
    submissions = host.state.submissions
    follow = submissions.follow

    async def followed(*given: Any, **named: Any) -> ChatInfo | None:
        info = await follow(*given, **named)
        await host.connection.redis.flushall()
        return info

    submissions.follow = followed  # type: ignore[method-assign]
    url = f"{host.url}/v1/chats/{host.driver.tickets[0].chat}/stream"
    taken_up = host.http.get(url, headers={"authorization": f"Bearer {ACME}"})
    for lost in await asyncio.wait_for(asyncio.gather(asking, taken_up), 10):
        error_of(lost, 503, "queue_unavailable")


async def test_a_chat_whose_reply_alone_is_lost_ends_with_a_503(host: Host) -> None:
    """Redis evicted the stream: nobody can write to it any more."""
    host.driver.script_for = lambda _: Script(ignore=True)
    asking = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.tickets, 10)
    await host.connection.redis.delete(keys.reply(host.driver.tickets[0].chat))
    error_of(await asyncio.wait_for(asking, 10), 503, "queue_unavailable")


async def test_the_registry_is_there_again_before_anyone_asks(host: Host) -> None:
    await host.connection.redis.delete(keys.REGISTRY)
    async with asyncio.timeout(10):
        while not await host.connection.redis.exists(keys.REGISTRY):  # noqa: ASYNC110  (it happens in Redis)
            await asyncio.sleep(0.05)


async def test_a_model_whose_ready_stream_is_gone_is_not_ready(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chats timed out, and /ready said that all was well."""

    async def unmended() -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(host.driver.bench, "open", unmended)
    await host.connection.redis.delete(keys.ready("small"))
    answer = await host.http.get(f"{host.url}/ready")
    assert (answer.status_code, answer.json()["models"]) == (503, {"small": "no_queue"})
