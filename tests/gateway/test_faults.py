"""Redis that is slow or gone: a quick 503, and whatever waited goes on when it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from services.store.connection import QueueUnavailable

from .conftest import Host, HostFactory
from .driver import Script, until
from .test_bad_input import GOOD, error_of


@contextmanager
def stopped(redis_url: str) -> Iterator[None]:
    """A Redis that takes connections and answers nothing."""
    with redis.Redis.from_url(redis_url) as client:
        pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def host(hosts: HostFactory) -> AsyncIterator[Host]:
    async with hosts(redis_timeout_s=1.0) as made:
        yield made


async def test_a_silent_redis_costs_one_short_timeout(host: Host, redis_url: str) -> None:
    assert (await host.ask(GOOD)).status_code == 200
    with stopped(redis_url):
        began = time.monotonic()
        answer = await host.ask(GOOD)
        error_of(answer, 503, "queue_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert time.monotonic() - began < 3.5
        began = time.monotonic()
        answers = await asyncio.gather(*(host.ask(GOOD) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {503}
        assert time.monotonic() - began < 3.5
        assert (await host.http.get(f"{host.url}/health")).status_code == 200
        ready = await host.http.get(f"{host.url}/ready")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["redis"])
    await asyncio.sleep(0.6)
    assert (await host.ask(GOOD)).status_code == 200
    await until(lambda: not host.state.lingering, 10)
    assert await host.connection.redis.hlen("bh:waiting") == 0


async def test_a_chat_whose_submission_was_not_answered_is_there_for_its_key(
    hosts: HostFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(pieces=[f"{number} " for number in range(20)], pause_s=0.2)
    async with hosts(resume_grace_s=10.0) as host:
        host.driver.script_for = lambda _: script
        submit = host.state.submissions.submit

        async def unanswered(*args: Any, **options: Any) -> None:
            await submit(*args, **options)
            raise QueueUnavailable("Redis fell silent")

        with monkeypatch.context() as silent:
            silent.setattr(host.state.submissions, "submit", unanswered)
            error_of(await host.ask(GOOD, **{"idempotency-key": "once"}), 503, "queue_unavailable")
        await asyncio.sleep(1.0)  # a chat without a key is given up by then
        answer = await host.ask(GOOD, **{"idempotency-key": "once"})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == script.text
        assert len(host.driver.tickets) == 1, "it was not cancelled and begun again"


async def test_streams_outlast_a_silent_redis(host: Host, redis_url: str) -> None:
    script = Script(pieces=[f"{number} " for number in range(20)], pause_s=0.02)
    host.driver.script_for = lambda _: script
    asking = asyncio.create_task(host.ask({**GOOD, "stream": True}))
    await until(lambda: host.driver.claims)
    with stopped(redis_url):
        await asyncio.sleep(0.5)
    answer = await asking
    assert answer.text.count('"content":"') == 21  # the role's empty one, and every piece once
    assert answer.text.endswith("data: [DONE]\n\n")
