"""Conversations of the chat API that were seen lately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

SESSION_KEEP_S = 24 * 3600  # after its last chat


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One conversation. `kv_bits` are the last chat's, `kv_bits_wanted` an operator's."""

    tenant: str
    session: str
    bot: str
    model: str
    last_s: float
    kv_bits: int | None = None
    kv_bits_wanted: int | None = None


class SessionStore:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def recent(self, tenant: str | None, most: int, now_s: float) -> tuple[list[StoredSession], bool]:
        """The sessions used last, of all tenants or one, and whether there are more than `most`."""
        redis = self._connection.redis
        with translated():
            await redis.zremrangebyscore(keys.SESSIONS, 0, now_s - SESSION_KEEP_S)
            places = [name.decode().partition(" ") for name in await redis.zrevrange(keys.SESSIONS, 0, -1)]
            wanted = [(owner, name) for owner, _, name in places if tenant in (None, owner)]
            async with redis.pipeline(transaction=False) as pipe:
                for owner, name in wanted[:most]:
                    pipe.hgetall(keys.session(owner, name))
                stored = await pipe.execute()
        found = [_decode(*place, values) for place, values in zip(wanted, stored, strict=False) if values]
        return found, len(wanted) > most

    async def read(self, tenant: str, session: str) -> StoredSession | None:
        """One session, or None when it was not seen lately."""
        with translated():
            stored = await self._connection.redis.hgetall(keys.session(tenant, session))
        return _decode(tenant, session, stored) if stored else None

    async def want_bits(self, tenant: str, session: str, bits: int) -> None:
        """KV bits that the session's next chats are to have."""
        with translated():
            await self._connection.redis.hset(keys.session(tenant, session), "wanted", bits)

    async def forget(self, tenant: str, session: str) -> None:
        """Its next chat begins a new one."""
        with translated():
            await self._connection.redis.delete(keys.session(tenant, session))
            await self._connection.redis.zrem(keys.SESSIONS, f"{tenant} {session}")


def _decode(tenant: str, session: str, stored: Mapping[bytes, bytes]) -> StoredSession:
    bits, wanted = stored.get(b"kv_bits"), stored.get(b"wanted")
    return StoredSession(
        tenant,
        session,
        bot=stored.get(b"bot", b"").decode(),
        model=stored.get(b"model", b"").decode(),
        last_s=float(stored.get(b"last_s", 0)),
        kv_bits=int(bits) if bits else None,
        kv_bits_wanted=int(wanted) if wanted else None,
    )
