"""The charts' samples, over a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.dashboard import recorder
from gateway.dashboard.recorder import Recorder
from gateway.metrics import Metrics
from services.store import redis_keys as keys
from services.store.connection import connect
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient
from tests.snapshots import MODEL, snapshot

WHOLE = snapshot(replace(MODEL, running=1, observed_inter_token_s=0.02, reserved_bytes=5), waiting=3)


@pytest.mark.parametrize(
    "broken",
    [
        {"at_s": 1.0, "models": {"m": {"running": 1}}, "waiting": 3},
        {"at_s": 1.0, "waiting": 3},
        {"at_s": 1.0, "models": ["m"], "waiting": 3},
        ["nothing"],
        None,
    ],
)
async def test_charts_go_on_after_a_snapshot_that_is_not_whole(
    redis_url: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scheduler of another version writes it. The charts ended there without a word, until the gateway did."""
    monkeypatch.setattr(recorder, "SAMPLE_S", 0.01)
    async with connect(redis_url) as connection:
        desk, charts = SchedulerStore(connection), Recorder(SubmissionClient(connection), Metrics(), time.time)
        with capture_logs() as logged:
            sampling = asyncio.create_task(charts.run())
            try:
                await desk.publish_snapshot(WHOLE, 60_000)
                await seen(charts, sampling, lambda waiting: waiting[-1:] == [3])
                if broken is None:
                    await connection.redis.set(keys.SNAPSHOT, b'{"half": ')
                else:
                    await connection.redis.set(keys.SNAPSHOT, orjson.dumps(broken))
                await seen(charts, sampling, lambda waiting: waiting[-3:] == [None] * 3)
                await desk.publish_snapshot(WHOLE, 60_000)
                await seen(charts, sampling, lambda waiting: waiting[-1:] == [3])
            finally:
                sampling.cancel()
    assert [line["event"] for line in logged] == ["snapshot.not_read"]


async def seen(charts: Recorder, sampling: asyncio.Task[None], found: Callable[[list[int | None]], bool]) -> None:
    """Wait until the chart of waiting chats shows it."""
    async with asyncio.timeout(10):
        while not found(charts.series(0.0)["waiting"]):
            assert not sampling.done(), sampling
            await asyncio.sleep(0.01)
