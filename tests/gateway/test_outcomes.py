"""Every bad end has a status, a type and words: from the queue, the scheduler, the engine."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import openai
import pytest

from gateway.outcomes import OUTCOMES, Code, from_reply
from services.contracts.decisions import Reason
from services.contracts.replies import ReplyError
from services.store import redis_keys as keys

from .conftest import Host, HostFactory
from .driver import Script, until
from .test_bad_input import GOOD, HELLO, error_of


def test_the_table_is_whole() -> None:
    assert set(OUTCOMES) == set(Code)
    assert {reason.value for reason in Reason} - {Reason.ROOM.value} <= {code.value for code in Code}
    assert all(row.status >= 400 for row in OUTCOMES.values())
    assert [code for code, row in OUTCOMES.items() if row.status == 500] == [Code.INTERNAL]


def test_a_code_nobody_knows_is_the_engines_fault() -> None:
    refused = from_reply(ReplyError("gremlins", "They were here."))
    assert (refused.code, refused.row.status) == (Code.ENGINE_FAILED, 502)
    assert "gremlins" in refused.message


def test_retry_headers() -> None:
    headers = dict(from_reply(ReplyError("deadline", "Late.", retry_after_s=1.25)).headers())
    assert headers == {b"retry-after": b"2", b"retry-after-ms": b"1250"}
    assert dict(from_reply(ReplyError("deadline", "Late.", retry_after_s=9999)).headers())[b"retry-after"] == b"60"
    assert dict(from_reply(ReplyError("never_fits", "Too large.")).headers()) == {}
    assert dict(from_reply(ReplyError("cancelled", "Ended.")).headers()) == {b"x-should-retry": b"false"}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_schedulers_refusals_have_a_status(host: Host, stream: bool) -> None:
    for reason, status, kind in (
        (Reason.DEADLINE, 503, openai.InternalServerError),
        (Reason.NEVER_FITS, 400, openai.BadRequestError),
        (Reason.TENANT_LIMIT, 429, openai.RateLimitError),
        (Reason.MODEL_DOWN, 503, openai.InternalServerError),
    ):
        host.driver.script_for = lambda _, reason=reason: Script(refuse=(reason, "In words.", 1.5))  # type: ignore[misc]
        with pytest.raises(kind) as caught:
            await host.client().chat.completions.create(model="support", messages=HELLO, stream=stream)
        assert caught.value.status_code == status
        assert caught.value.code == reason.value
        assert "In words." in caught.value.message
        assert caught.value.response.headers["retry-after-ms"] == "1500"
        assert caught.value.response.headers["x-bunkhouse-chat"] == host.driver.tickets[-1].chat


async def test_an_error_in_mid_stream_is_an_event(host: Host) -> None:
    host.driver.script_for = lambda _: Script(error=ReplyError("engine_failed", "It broke."), pause_s=0.02)
    stream = await host.client().chat.completions.create(model="support", messages=HELLO, stream=True)
    heard: list[str] = []

    async def listen() -> None:
        async for chunk in stream:
            heard.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  (what came before the error counts)

    with pytest.raises(openai.APIError, match="It broke"):
        await listen()
    assert "".join(heard) == "Hello, wörld!"
    raw = await host.ask({**GOOD, "stream": True})
    *_, error, done, _ = raw.text.split("\n\n")
    assert error.startswith('data: {"error":{"message":"It broke."')
    assert done == "data: [DONE]"


async def test_an_error_of_a_whole_answer_has_a_status(host: Host) -> None:
    host.driver.script_for = lambda _: Script(error=ReplyError("engine_rejected", "Not this."))
    error_of(await host.ask(GOOD), 400, "engine_rejected")


async def test_a_full_waiting_room(host: Host) -> None:
    host.driver.script_for = lambda _: Script(ignore=True)
    waiting = [asyncio.create_task(host.ask(GOOD)) for _ in range(40)]
    await until(lambda: len(host.driver.tickets) == 40)
    answer = await host.ask(GOOD)
    assert "40" in error_of(answer, 429, "tenant_queue_full")
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["retry-after-ms"]) > 0
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await until(lambda: not host.state.open_requests and not host.state.lingering)
    assert await host.connection.redis.hlen("bh:waiting") == 0


async def test_a_deadline_that_no_scheduler_keeps(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.DEADLINE_SLACK_S", 0.1)
    host.driver.script_for = lambda _: Script(ignore=True)
    began = time.monotonic()
    error_of(await host.ask({**GOOD, "model": "hasty"}), 503, "deadline")
    assert time.monotonic() - began < 2
    await until(lambda: not host.state.lingering)
    assert await host.connection.redis.hlen("bh:waiting") == 0


async def test_a_stream_that_is_refused_late_gets_an_event(hosts: HostFactory) -> None:
    async with hosts(ping_s=0.1, early_refusal_s=0.1) as host:
        host.driver.script_for = lambda _: Script(refuse=(Reason.DEADLINE, "Too late.", None), hold_s=0.3)
        answer = await host.ask({**GOOD, "stream": True})
        assert answer.status_code == 200
        assert answer.text.startswith("\n\n")
        assert '"code":"deadline"' in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_model_that_was_given_up_is_refused_at_once(host: Host) -> None:
    """Its chats waited until their deadline."""
    await host.connection.redis.sadd(keys.GIVEN_UP, "small")
    await host.state.engines.look()
    assert "is not running" in error_of(await host.ask(GOOD), 503, "model_down", "model")
    await host.connection.redis.srem(keys.GIVEN_UP, "small")
    await host.state.engines.look()
    assert (await host.ask(GOOD)).status_code == 200


async def test_a_bug_is_a_500_that_tells_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("gateway.chats.checked_chat", broken)
    assert "secret" not in error_of(await host.ask(GOOD), 500, "internal_error")
