"""Bots' test sets, and reports of their runs, as Redis keeps them."""

from __future__ import annotations

from typing import Any

from services.contracts.bot_tests import BotQuestions, BotTestReport
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.jobs import JOB_KEEP_S


class BotTestStore:
    """Bots are `tenant/bot`. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def questions(self, bot: str) -> BotQuestions:
        """A bot's test set; an empty one where it has none."""
        with translated():
            stored = await self._redis.hget(keys.BOT_TESTS, bot)
        return BotQuestions.model_validate_json(stored) if stored else BotQuestions()

    async def replace(self, bot: str, questions: BotQuestions) -> None:
        """Keep a test set in place of the former one."""
        with translated():
            await self._redis.hset(keys.BOT_TESTS, bot, questions.model_dump_json(exclude_defaults=True))

    async def clear(self, *bots: str) -> None:
        """Forget some bots' test sets."""
        if bots:
            with translated():
                await self._redis.hdel(keys.BOT_TESTS, *bots)

    async def keep(self, report: BotTestReport) -> None:
        """Keep a report as long as its job."""
        with translated():
            await self._redis.set(keys.bot_test_report(report.job), report.model_dump_json(), ex=JOB_KEEP_S)

    async def report(self, job: str) -> BotTestReport | None:
        """The report of a job."""
        with translated():
            stored = await self._redis.get(keys.bot_test_report(job))
        return BotTestReport.model_validate_json(stored) if stored else None

    async def first_bits(self, job: str, bits: int) -> int:
        """The KV bits that a job's model had before the job's first attempt: `bits` where this is the first one."""
        name = keys.bot_test_bits(job)
        with translated():
            await self._redis.set(name, bits, nx=True, ex=JOB_KEEP_S)
            return int(await self._redis.get(name))
