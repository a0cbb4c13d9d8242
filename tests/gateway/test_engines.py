"""What a gateway knows of the engines, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from gateway import directory
from gateway.directory import EngineNow, Engines
from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.contracts.snapshot import Snapshot
from services.store import redis_keys as keys
from services.store.connection import connect
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient
from services.store.work import WorkConsumer
from tests.snapshots import MODEL, snapshot

from .conftest import config_of

FACTS = EngineFacts("small", "llamacpp", 1, 1, 100, {8: 1}, context_tokens=2048, chats_max=8, kv_bits=KvBits.EIGHT)


@pytest.mark.parametrize(
    "broken",
    [{"at_s": 1.0, "models": {"small": {"budget_bytes": 100}}, "waiting": 0}, {"models": ["small"]}, None],
)
async def test_a_gateway_outlives_a_description_that_is_not_whole(
    redis_url: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scheduler or worker of another version writes it. The gateway ended, again at every start."""
    monkeypatch.setattr(directory, "ENGINES_EVERY_S", 0.01)

    def described(reserved: int) -> Snapshot:
        return snapshot(replace(MODEL, model="small", reserved_bytes=reserved))

    async with connect(redis_url) as connection:
        desk, seen = SchedulerStore(connection), Engines(SubmissionClient(connection), config_of().models)
        bench = WorkConsumer(connection, "small", "small@0")
        report = EngineReport("small", 0.0, EngineState.READY)
        await bench.publish_engine(FACTS, report)
        await desk.publish_snapshot(described(50), 60_000)
        with capture_logs() as logged:
            watching = asyncio.create_task(seen.watch())
            try:
                await until(seen, watching, lambda now: now.pressure == 0.5)
                if broken is None:
                    await connection.redis.hset(keys.ENGINES, "small", b'{"facts": {}}')
                else:
                    await connection.redis.set(keys.SNAPSHOT, orjson.dumps(broken))
                await asyncio.sleep(0.2)
                await until(seen, watching, lambda now: now.pressure == 0.5)
                await bench.publish_engine(FACTS, report)
                await desk.publish_snapshot(described(75), 60_000)
                await until(seen, watching, lambda now: now.pressure == 0.75)
            finally:
                watching.cancel()
    assert [line["event"] for line in logged] == ["engines.not_read" if broken is None else "snapshot.not_read"]


async def test_one_model_that_cannot_be_read_hides_no_other(redis_url: str) -> None:
    """While a worker of another version ran, prompts for every other model were held to what the file says."""
    one = config_of().models["small"]
    async with connect(redis_url) as connection:
        seen = Engines(SubmissionClient(connection), {"old": one, "small": one})
        await connection.redis.hset(keys.ENGINES, "old", b'{"facts": {}}')
        facts = replace(FACTS, context_tokens=512)
        await WorkConsumer(connection, "small", "small@0").publish_engine(
            facts, EngineReport("small", 0.0, EngineState.READY)
        )
        with capture_logs() as logged:
            watching = asyncio.create_task(seen.watch())
            try:
                await until(seen, watching, lambda now: now.context_tokens == 512)
            finally:
                watching.cancel()
    assert [(line["event"], line["model"]) for line in logged] == [("engines.not_read", "old")]


async def until(seen: Engines, watching: asyncio.Task[None], wanted: Callable[[EngineNow], bool]) -> None:
    """Wait until the gateway has it so."""
    async with asyncio.timeout(10):
        while not ((now := seen.get("small")) and wanted(now)):
            assert not watching.done(), watching
            await asyncio.sleep(0.01)
    assert not watching.done(), watching
