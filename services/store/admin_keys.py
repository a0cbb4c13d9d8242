"""Further admin keys, as digests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import decode, encode


@dataclass(frozen=True, slots=True)
class StoredAdmin:
    """A further admin key as it is stored."""

    id: str
    name: str
    role: Literal["viewer", "operator", "owner"]
    digest: str
    created_s: float


async def admin_keys(connection: Connection) -> list[StoredAdmin]:
    """All further admin keys, oldest first. Raises QueueUnavailable."""
    with translated():
        stored = await connection.redis.hvals(keys.ADMINS)
    found = [decode(StoredAdmin, data) for data in stored]
    return sorted(found, key=lambda admin: (admin.created_s, admin.id))


async def keep_admin_key(connection: Connection, admin: StoredAdmin) -> None:
    """Store an admin key. Raises QueueUnavailable."""
    with translated():
        await connection.redis.hset(keys.ADMINS, admin.id, encode(admin))


async def drop_admin_key(connection: Connection, admin_id: str) -> None:
    """Forget an admin key. Raises QueueUnavailable."""
    with translated():
        await connection.redis.hdel(keys.ADMINS, admin_id)
