"""What counts against a chat: engines that failed under it, not workers that were killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.contracts.replies import Finish
from services.store import redis_keys as keys
from tests.worker.conftest import open_bunk


@pytest.mark.timeout(200)
async def test_killed_workers_use_up_no_attempts(redis_url: str, tmp_path: Path) -> None:
    """Five attempts are behind it when its engine dies for the first time."""
    async with open_bunk(redis_url, tmp_path) as bunk:
        chat = await bunk.submit("Count from 1 to 40.", max_tokens=48)
        await bunk.connection.redis.hset(keys.chat(chat.chat), "attempt", 5)
        worker = bunk.worker()
        running = asyncio.create_task(worker.run())
        await bunk.entries(chat.chat, until_text=4)
        bunk.engine_process().kill()
        text, end = await bunk.answer(chat.chat)
        worker.stop()
        await running
    assert end.finish in (Finish.STOP, Finish.LENGTH), end
    assert text
