"""The host's KV memory during a run, from Bunkhouse's /metrics once a second. Other servers have no such gauges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.http_stream.client import ConnectionBroken, StreamClient

EVERY_S = 1.0
ANSWER_S_MAX = 5.0
PREFIX = "bunkhouse_"
GAUGES = {
    "bunkhouse_kv_budget_bytes": "budget_bytes",
    "bunkhouse_kv_reserved_bytes": "reserved_bytes",
    "bunkhouse_kv_used_bytes": "used_bytes",
    "bunkhouse_chats_running": "running",
    "bunkhouse_chats_waiting": "waiting",
}


@dataclass(frozen=True, slots=True)
class KvSample:
    """Sums over all models, precisions and tenants. Bytes and chats; `at_s` since the run's start."""

    at_s: float
    budget_bytes: float = 0
    reserved_bytes: float = 0
    used_bytes: float = 0
    running: float = 0
    waiting: float = 0


def parse(at_s: float, text: str) -> KvSample | None:
    """Prometheus text. None where no gauge of Bunkhouse's is in it."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if (field := GAUGES.get(name)) is not None:
            sums[field] = sums.get(field, 0.0) + float(line.rpartition(" ")[2])
    return KvSample(at_s, **sums) if sums else None


async def watch(http: StreamClient, now: Callable[[], float], on_sample: Callable[[KvSample], None]) -> None:
    """Sample until cancelled. Ends by itself if the server is not a Bunkhouse host."""
    # A host that has just started names its gauges before it has values for them.
    while True:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                answer = await http.get("/metrics")
        except (ConnectionBroken, TimeoutError):
            await asyncio.sleep(EVERY_S)  # a host that is busy or starts again
            continue
        text = answer.body.decode(errors="replace") if answer.status == 200 else ""
        if PREFIX not in text:
            return
        if (sample := parse(now(), text)) is not None:
            on_sample(sample)
        await asyncio.sleep(EVERY_S)
