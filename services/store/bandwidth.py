"""Each device's memory bandwidth, as the first worker on it measured it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.contracts.devices import DeviceBandwidth
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import decode, encode


async def ensure_measured(
    connection: Connection,
    device: str,
    measure: Callable[[], Awaitable[DeviceBandwidth | None]],
    measure_s_max: float,
    name: str | None = None,
) -> None:
    """Measure the device, unless another worker did or does so now. `name`: what the device is called now, where that
    is known; what was measured under another name is measured anew. Raises QueueUnavailable."""
    with translated():
        known = _decoded(await connection.redis.hget(keys.BANDWIDTHS, device))
        if known is not None and name in (None, known.name):
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
    found = {device.decode(): _decoded(data) for device, data in stored.items()}
    return {device: measured.bytes_per_s for device, measured in found.items() if measured is not None}


def _decoded(data: bytes | None) -> DeviceBandwidth | None:
    """None where nothing is stored, or what another version wrote."""
    try:
        return decode(DeviceBandwidth, data) if data else None
    except (TypeError, ValueError):
        return None
