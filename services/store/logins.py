"""The dashboard's sealed logins, and counters of failed ones. Sealing is the gateway's."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

_MINUTE_S = 60


class SealedLogin(BaseModel):
    """A login as it is stored: the admin key is sealed with the browser's secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: str
    sealed: str
    mac: str
    ends_s: float


class LoginStore:
    """Logins by the digest of their secret. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def keep(self, digest: str, login: SealedLogin, idle_s: int) -> None:
        """Store a login, forgotten after `idle_s` without a look at it."""
        with translated():
            await self._redis.set(keys.dashboard_session(digest), login.model_dump_json(), ex=idle_s)

    async def find(self, digest: str, idle_s: int) -> SealedLogin | None:
        """A login, kept for `idle_s` more; or None."""
        with translated():
            data = await self._redis.getex(keys.dashboard_session(digest), ex=idle_s)
        return SealedLogin.model_validate_json(data) if data else None

    async def drop(self, digest: str) -> None:
        """Forget a login."""
        with translated():
            await self._redis.delete(keys.dashboard_session(digest))

    async def count_try(self, address: str, now_s: float) -> int:
        """Count a login as failed. Returns how many failed from this address in this minute."""
        name = keys.dashboard_tries(address, int(now_s // _MINUTE_S))
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.incr(name)
                pipe.expire(name, 2 * _MINUTE_S)
                count, _ = await pipe.execute()
        return int(count)

    async def uncount_try(self, address: str, now_s: float) -> None:
        """The login just counted did not fail."""
        with translated():
            await self._redis.decr(keys.dashboard_tries(address, int(now_s // _MINUTE_S)))
