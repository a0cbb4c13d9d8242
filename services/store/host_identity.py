"""Whose Redis this is. Two hosts with the same keys would answer each other's chats."""

from __future__ import annotations

import hashlib
import hmac

import structlog

from services.config.schema import ConfigError
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

KEPT = "noeviction"

log = structlog.get_logger()


def identity_of(pepper: bytes) -> str:
    """A host's id: the same as long as its secrets are."""
    return hmac.new(pepper, b"host identity", hashlib.sha256).hexdigest()[:32]


async def claim_redis(connection: Connection, identity: str, name: str) -> None:
    """Mark a Redis as this host's. Raises ConfigError where it is another's, QueueUnavailable."""
    with translated():
        async with connection.redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(keys.HOST, "id", identity)
            pipe.hget(keys.HOST, "id")
            pipe.hget(keys.HOST, "name")
            made, owner, owner_name = await pipe.execute()
        if made:
            await connection.redis.hset(keys.HOST, "name", name)
    if owner.decode() != identity:
        other = (owner_name or b"another host").decode()
        raise ConfigError(
            f"redis: this Redis belongs to {other}. Give this host a redis.prefix of its own. If {other} is this host "
            f"and its secrets.json was replaced, restore that file, or delete the Redis key {keys.HOST}."
        )


async def warn_of_eviction(connection: Connection) -> None:
    """Log a warning where Redis may delete keys to free memory. Raises QueueUnavailable."""
    with translated():
        memory = await connection.redis.info("memory")
    policy = memory.get("maxmemory_policy", KEPT)
    if policy != KEPT:
        log.warning("redis.evicts", policy=policy, advice=f"set maxmemory-policy {KEPT}")
