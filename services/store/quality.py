"""What KV bits were measured to cost each model, as Redis keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from services.store import redis_keys as keys
from services.store.connection import Connection, translated


@dataclass(frozen=True, slots=True)
class Measured:
    """One model at one precision. Changes are parts: 0.03 is 3% worse. `source` names the job and the text."""

    bits: int
    perplexity: float
    perplexity_change: float
    kl: float
    top1_agrees: float
    source: str


async def keep(connection: Connection, model: str, rows: Sequence[Measured]) -> None:
    """Remember a model's figures; precisions that were not measured this time keep theirs. Raises QueueUnavailable."""
    known = {row.bits: row for row in await measured(connection, model)} | {row.bits: row for row in rows}
    with translated():
        await connection.redis.hset(keys.QUALITY, model, orjson.dumps([known[bits] for bits in sorted(known)]))


async def measured(connection: Connection, model: str) -> list[Measured]:
    """A model's figures, by bits. Raises QueueUnavailable."""
    with translated():
        stored = await connection.redis.hget(keys.QUALITY, model)
    return [Measured(**values) for values in orjson.loads(stored)] if stored else []
