"""Engines and snapshots as another version of Bunkhouse may have written them."""

from __future__ import annotations

from dataclasses import asdict, replace

import orjson
from structlog.testing import capture_logs

from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.store import redis_keys as keys
from services.store.connection import connect
from services.store.engine_records import EngineRecords
from services.store.scheduling import SchedulerStore
from services.store.work import WorkConsumer
from tests.snapshots import MODEL, snapshot

FACTS = EngineFacts("m", "llamacpp", 1, 1, 100, {8: 1}, context_tokens=2048, chats_max=8, kv_bits=KvBits.EIGHT)
REPORT = EngineReport("m", 1.0, EngineState.READY)


async def test_what_was_published_is_read_back(redis_url: str) -> None:
    async with connect(redis_url) as connection:
        records = EngineRecords(connection)
        assert await records.snapshot() is None
        await WorkConsumer(connection, "m", "m@0").publish_engine(FACTS, REPORT)
        await SchedulerStore(connection).publish_snapshot(published := snapshot(MODEL), 60_000)
        assert (await records.engines())["m"].facts == FACTS
        assert (await records.engines())["m"].report == REPORT
        assert await records.snapshot() == replace(published, unread=[], wanted_models=[])


async def test_what_a_newer_version_adds_is_dropped(redis_url: str) -> None:
    model = asdict(MODEL) | {"newer": 1}
    stored = asdict(snapshot()) | {"newer": {"a": 1}, "models": {"m": model}}
    engine = {"facts": asdict(FACTS) | {"newer": 1}, "report": asdict(REPORT) | {"newer": 1}, "newer": 1}
    async with connect(redis_url) as connection:
        await connection.redis.set(keys.SNAPSHOT, orjson.dumps(stored))
        await connection.redis.hset(keys.ENGINES, "m", orjson.dumps(engine, option=orjson.OPT_NON_STR_KEYS))
        found = await EngineRecords(connection).snapshot()
        assert found is not None
        assert found.models == {"m": MODEL}
        assert (await EngineRecords(connection).engines())["m"].facts == FACTS


async def test_a_model_that_cannot_be_read_hides_no_other_and_is_logged_once(redis_url: str) -> None:
    stored = asdict(snapshot(MODEL, waiting=3))
    stored["models"]["old"] = {"running": 1}
    async with connect(redis_url) as connection:
        records = EngineRecords(connection)
        await connection.redis.set(keys.SNAPSHOT, orjson.dumps(stored))
        with capture_logs() as logged:
            found = await records.snapshot()
            assert await records.snapshot() == found
        assert found is not None
        assert (found.models, found.unread, found.waiting) == ({"m": MODEL}, ["old"], 3)
        assert [(line["event"], line["model"]) for line in logged] == [("snapshot.not_read", "old")]
