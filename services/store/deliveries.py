"""Handovers to people on their way to a tenant's webhook.

They wait by the time of their next try. Whoever takes the next due one moves that time forward, so that one which a
gateway had in hand as it died becomes due again: each is delivered at least once.
"""

from __future__ import annotations

from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

_KEEP_S = 2 * 86_400

log = structlog.get_logger()


class Delivery(BaseModel):
    """One webhook on its way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    bot: str
    url: str
    body: str
    tries: int = 0


class DeliveryStore:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis: Any = connection.redis

    async def keep(self, delivery: Delivery, due_s: float) -> None:
        """Store a delivery, to be tried at `due_s`."""
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(keys.widget_letter(delivery.id), delivery.model_dump_json(), ex=_KEEP_S)
                pipe.zadd(keys.WIDGET_OUTBOX, {delivery.id: due_s})
                await pipe.execute()

    async def take(self, now_s: float, in_hand_s: float) -> tuple[str, Delivery | None] | None:
        """Id and content of the next due delivery, which is due again after `in_hand_s`. None: none is due.

        No content: it was forgotten, or a newer gateway wrote it and will deliver it.
        """
        taken = await self._connection.script("take_delivery", [keys.WIDGET_OUTBOX], [now_s, now_s + in_hand_s])
        if not taken:
            return None
        name = taken.decode()
        with translated():
            stored = await self._redis.get(keys.widget_letter(name))
        if not stored:
            await self.drop(name)
            return name, None
        try:
            return name, Delivery.model_validate_json(stored)
        except ValidationError:
            log.exception("widget.letter_unreadable", letter=name)
            return name, None

    async def drop(self, delivery_id: str) -> None:
        """Forget a delivery."""
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zrem(keys.WIDGET_OUTBOX, delivery_id)
                pipe.delete(keys.widget_letter(delivery_id))
                await pipe.execute()
