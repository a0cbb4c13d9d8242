"""Redis comes back empty, or forgets a stream. A host serves again without a restart of any of its parts."""

from __future__ import annotations

import asyncio

import pytest

from services.store import redis_keys as keys

from .conftest import Host
from .driver import Script, until
from .test_bad_input import GOOD, error_of


async def test_chats_under_way_end_with_a_503_and_new_ones_are_served(host: Host) -> None:
    """Valid keys got 401, and a stream was silent for 301 s."""
    host.driver.script_for = lambda _: Script(pieces=["one ", "two"], pause_s=600.0)
    asking = asyncio.create_task(host.ask(GOOD))
    await until(lambda: host.driver.tickets, 10)
    await asyncio.sleep(1.5)  # the gateway has looked at the running chat
    await host.connection.redis.flushall()
    host.driver.lease = await host.driver.desk.take_lease("", "again", 60_000) or ""
    error_of(lost := await asyncio.wait_for(asking, 10), 503, "queue_unavailable")
    assert lost.headers["retry-after"]
    host.driver.script_for = lambda _: Script(pieces=["fine"])
    await host.driver.bench.open()
    assert (await host.ask(GOOD)).status_code == 200
    assert (await host.connection.redis.hget(keys.REGISTRY, "version")) is not None


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
