"""The GPU's memory bandwidth, as the first worker on it measured it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.contracts.engines import DeviceBandwidth
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import decode, encode


async def ensure_measured(
    connection: Connection, measure: Callable[[], Awaitable[DeviceBandwidth | None]], measure_s_max: float
) -> None:
    """Measure, unless another worker did or does so now. Raises QueueUnavailable."""
    with translated():
        if await connection.redis.exists(keys.BANDWIDTH):
            return
        if not await connection.redis.set(keys.BANDWIDTH_PROBE, "1", nx=True, ex=int(measure_s_max)):
            return
    measured = await measure()
    if measured is not None:
        with translated():
            await connection.redis.set(keys.BANDWIDTH, encode(measured))


async def read_measured(connection: Connection) -> float | None:
    """Bytes a second, or None where nothing was measured. Raises QueueUnavailable."""
    with translated():
        stored = await connection.redis.get(keys.BANDWIDTH)
    return float(decode(DeviceBandwidth, stored).bytes_per_s) if stored else None
