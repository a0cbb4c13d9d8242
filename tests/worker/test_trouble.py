"""What an engine may do to its chats, and what of it a client and the bill see. The real engine, made to fail once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from services.contracts.chats import KvBits
from services.engines.base import EngineBusy, EngineRejected, EngineRequest, EngineUnavailable, Piece
from services.worker.worker import Worker
from tests.worker.conftest import Bunk, pauses, running

COUNT = "Count from 1 to 40."


def _fails_once(worker: Worker, error: Exception, after: int) -> None:
    """Right behind that many pieces, with no time between."""
    engine, errors, left_open = worker._supervisor.engine, [error], []
    stream = engine.stream

    async def failing(request: EngineRequest) -> AsyncIterator[Piece]:
        if not errors:
            async for piece in stream(request):
                yield piece
            return
        if after == 0:
            raise errors.pop()
        pieces = stream(request)
        left_open.append(pieces)
        for _ in range(after):
            yield await anext(pieces)
        raise errors.pop()

    async def alive() -> bool:
        return True

    setattr(engine, "stream", failing)  # noqa: B010  (methods of one object)
    setattr(engine, "alive", alive)  # noqa: B010


@pytest.mark.parametrize("error", [EngineBusy("no room any more"), EngineUnavailable("gone")])
async def test_an_engine_that_fails_in_mid_answer_costs_no_token_and_no_time(
    bunk: Bunk, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker.worker.ABANDONED_MS", 600_000)  # nobody finds it abandoned
    worker = bunk.worker()
    async with running(worker):
        whole, _ = await bunk.answer((await bunk.submit(COUNT, max_tokens=48)).chat)
        _fails_once(worker, error, after=7)
        entries = await bunk.entries((await bunk.submit(COUNT, max_tokens=48)).chat)
    assert "".join(entry.text for entry in entries) == whole
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries) == 48


async def test_what_an_engine_refuses_costs_nothing(bunk: Bunk) -> None:
    worker = bunk.worker()
    _fails_once(worker, EngineRejected("no such voice"), after=0)
    async with running(worker):
        _, end = await bunk.answer((await bunk.submit("Hello", max_tokens=4)).chat)
    assert end.error is not None
    assert (end.error.code, end.usage) == ("engine_rejected", None)


async def test_a_fault_of_ours_is_told_and_not_met_again(bunk: Bunk) -> None:
    worker = bunk.worker()
    _fails_once(worker, ZeroDivisionError(), after=2)
    async with running(worker):
        text, end = await bunk.answer((await bunk.submit(COUNT, max_tokens=48)).chat)
    assert text
    assert end.error is not None
    assert end.error.code == "engine_failed"
    assert end.usage is not None
    assert end.usage.completion_tokens == 2


async def test_a_wall_clock_that_jumps_bills_no_memory(bunk: Bunk) -> None:
    jump_s = 0.0
    worker = bunk.worker()
    worker._context.clock = lambda: time.time() + jump_s
    async with running(worker):
        chat = await bunk.submit(COUNT, max_tokens=48)
        await bunk.entries(chat.chat, until_text=3)
        jump_s = 86_400.0
        _, end = await bunk.answer(chat.chat)
    assert end.usage is not None
    per_token = worker._supervisor.facts.kv_bytes_per_token[8]
    assert 0 < end.usage.kv_byte_seconds < (chat.prompt_tokens + 48) * per_token * 60


async def test_a_chat_is_billed_at_the_bits_that_it_was_lowered_to(bunk: Bunk) -> None:
    worker = bunk.worker()
    async with running(worker):
        await bunk.entries((await bunk.submit("Hello", max_tokens=2)).chat)  # the engine is up
        worker._supervisor.facts.kv_bytes_per_token[4] = 0  # type: ignore[index]  # nothing, so that it shows
        stopped, go_on = pauses(worker, after=3)
        chat = await bunk.submit(COUNT, max_tokens=60)
        await stopped.wait()
        worker._running[chat.chat].kv_bits = KvBits.FOUR  # as an engine with live bits has it after a demotion
        billed = worker._running[chat.chat].byte_seconds
        go_on.set()
        _, end = await bunk.answer(chat.chat)
    assert end.usage is not None
    assert end.usage.kv_byte_seconds == pytest.approx(billed, rel=0.01)
