"""Calls of bots' actions: written down before they are sent, so that none that changes something is made twice."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

CALL_KEEP_S = 86_400
CONFIRM_KEEP_S = 900  # a visitor may say yes so long


class ActionOutcome(BaseModel):
    """What came of one call, as the model and the audit log see it. `shown` are fields of the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: str  # ok, not_found, refused, failed, timeout, too_large, invalid, unknown, declined
    text: str
    shown: dict[str, JsonValue] = {}


class ActionCall(BaseModel):
    """One call. Without `outcome` it was sent, and nobody knows what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: str
    arguments: dict[str, JsonValue]
    outcome: ActionOutcome | None = None


class WaitingCall(BaseModel):
    """A call that waits for its visitor's yes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bot: str
    session: str
    action: str
    arguments: dict[str, JsonValue]


class ActionCallStore:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def read(self, key: str) -> ActionCall | None:
        """A call that was begun, or None."""
        with translated():
            stored = await self._redis.get(keys.action_call(key))
        return ActionCall.model_validate_json(stored) if stored else None

    async def begin(self, key: str, call: ActionCall) -> bool:
        """Write a call down before it is sent. False: it was begun before."""
        with translated():
            stored = await self._redis.set(keys.action_call(key), call.model_dump_json(), nx=True, ex=CALL_KEEP_S)
        return bool(stored)

    async def finish(self, key: str, call: ActionCall) -> None:
        """Write down what came of it."""
        with translated():
            await self._redis.set(keys.action_call(key), call.model_dump_json(), ex=CALL_KEEP_S)

    async def wait(self, confirmation: str, call: WaitingCall) -> None:
        """Keep a call until its visitor decides."""
        with translated():
            await self._redis.set(keys.action_waiting(confirmation), call.model_dump_json(), ex=CONFIRM_KEEP_S)

    async def waiting(self, confirmation: str) -> WaitingCall | None:
        """A call that waits, or None where it was decided or has expired."""
        with translated():
            stored = await self._redis.get(keys.action_waiting(confirmation))
        return WaitingCall.model_validate_json(stored) if stored else None

    async def drop(self, confirmation: str) -> None:
        """End the wait."""
        with translated():
            await self._redis.delete(keys.action_waiting(confirmation))
