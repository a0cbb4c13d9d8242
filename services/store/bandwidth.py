"""Each device's memory bandwidth, as the first worker on it measured it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.contracts.devices import DeviceBandwidth
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import decode, encode


async def ensure_measured(
    connection: Connection, device: str, measure: Callable[[], Awaitable[DeviceBandwidth | None]], measure_s_max: float
) -> None:
    """Measure the device, unless another worker did or does so now. Raises QueueUnavailable."""
    with translated():
        if await connection.redis.hexists(keys.BANDWIDTHS, device):
            return
        if not await connection.redis.set(keys.bandwidth_probe(device), "1", nx=True, ex=int(measure_s_max)):
            return
    measured = await measure()
    if measured is not None:
        with translated():
            await connection.redis.hset(keys.BANDWIDTHS, device, encode(measured))


async def read_measured(connection: Connection) -> dict[str, float]:
    """Bytes a second by device id, of the devices that were measured. Raises QueueUnavailable."""
    with translated():
        stored = await connection.redis.hgetall(keys.BANDWIDTHS)
    return {device.decode(): float(decode(DeviceBandwidth, found).bytes_per_s) for device, found in stored.items()}
