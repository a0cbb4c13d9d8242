"""What the host found out about each GPU's MPS daemon, for `ps`, pages and metrics."""

from __future__ import annotations

from collections.abc import Mapping

from services.contracts.devices import MpsState
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import decode, encode


async def write_mps_states(connection: Connection, states: Mapping[str, MpsState]) -> None:
    """Replace them, by device id. Raises QueueUnavailable."""
    with translated():
        async with connection.redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.MPS)
            if states:
                pipe.hset(keys.MPS, mapping={device: encode(state) for device, state in states.items()})
            await pipe.execute()


async def read_mps_states(connection: Connection) -> dict[str, MpsState]:
    """By device id; a device that is shared in turns because the configuration says so has none. Raises
    QueueUnavailable."""
    with translated():
        stored = await connection.redis.hgetall(keys.MPS)
    return {device.decode(): decode(MpsState, state) for device, state in stored.items()}
