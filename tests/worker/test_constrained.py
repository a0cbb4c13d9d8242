"""Constrained answers whose worker or engine dies: one that was read in part fails clearly, any other starts anew."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from services.contracts.chats import OutputFormat, Ticket
from services.contracts.replies import Finish, ReplyEntry
from tests.worker.conftest import Bunk, pauses, running

NAMES = {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 6, "maxItems": 6}
SCHEMA = orjson.dumps(NAMES).decode()


async def _ask(bunk: Bunk, *, whole: bool) -> Ticket:
    output = OutputFormat(json_schema=SCHEMA, whole=whole)
    return await bunk.submit("Name six towns.", max_tokens=120, output=output)


def _texts(entries: list[ReplyEntry]) -> list[str]:
    return [entry.text for entry in entries if entry.kind == "text"]


async def test_a_whole_answer_comes_at_its_end_after_word_that_it_started(served: Bunk) -> None:
    entries = await served.entries((await _ask(served, whole=True)).chat)
    assert _texts(entries)[0] == ""
    assert len(orjson.loads("".join(_texts(entries)))) == 6
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert (end.finish, end.usage.completion_tokens) == (Finish.STOP, sum(entry.tokens for entry in entries))


@pytest.mark.parametrize("dies", ["worker", "engine"])
async def test_an_answer_that_nobody_read_starts_anew(bunk: Bunk, dies: str) -> None:
    entries = await _broken_off(bunk, dies, whole=True)
    assert len(orjson.loads("".join(_texts(entries)))) == 6
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert end.finish is Finish.STOP
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries), "lost tokens are not billed"


@pytest.mark.parametrize("dies", ["worker", "engine"])
async def test_an_answer_that_was_read_in_part_fails_clearly(bunk: Bunk, dies: str) -> None:
    entries = await _broken_off(bunk, dies, whole=False)
    end = entries[-1].end
    assert end is not None
    assert end.error is not None
    assert (end.error.code, "Ask again" in end.error.message) == ("engine_failed", True)
    assert end.usage is not None
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries) > 0


async def _broken_off(bunk: Bunk, dies: str, *, whole: bool) -> list[ReplyEntry]:
    """The reply to a chat that lost its first worker, or its engine, after some pieces."""
    first = bunk.worker()
    stopped, go_on = pauses(first, after=8)
    serving = asyncio.create_task(first.run())
    chat = await _ask(bunk, whole=whole)
    await stopped.wait()
    await bunk.entries(chat.chat, until_text=1)
    if dies == "engine":
        bunk.engine_process().kill()
        go_on.set()
        entries = await bunk.entries(chat.chat)
        first.stop()
        await serving
        return entries
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    async with running(bunk.worker()):
        return await bunk.entries(chat.chat)
