"""Handovers to people on their way to a tenant's webhook.

They wait by the time of their next try. Whoever takes the next due one moves that time forward, so that one which a
gateway had in hand as it died becomes due again: each is delivered at least once.
"""

from __future__ import annotations

from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

_KEEP_S = 2 * 86_400
FAILED_KEEP_S = 30 * 86_400

log = structlog.get_logger()


class Delivery(BaseModel):
    """One webhook or mail on its way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    bot: str
    url: str
    kind: Literal["webhook", "slack", "email"] = "webhook"  # of email, `url` is the receiver's address
    body: str
    tries: int = 0
    failed_s: float = 0.0  # when it was given up
    why: str = ""


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

    async def fail(self, delivery: Delivery, why: str, now_s: float) -> None:
        """Give a delivery up: it is kept for FAILED_KEEP_S, to be sent again by an operator."""
        kept = delivery.model_copy(update={"failed_s": now_s, "why": why})
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zrem(keys.WIDGET_OUTBOX, delivery.id)
                pipe.set(keys.widget_letter(delivery.id), kept.model_dump_json(), ex=FAILED_KEEP_S)
                pipe.zadd(keys.WIDGET_FAILED, {delivery.id: now_s})
                pipe.zremrangebyscore(keys.WIDGET_FAILED, 0, now_s - FAILED_KEEP_S)
                await pipe.execute()

    async def failed(self) -> list[Delivery]:
        """Deliveries that were given up, newest first."""
        with translated():
            names = [name.decode() for name in await self._redis.zrevrange(keys.WIDGET_FAILED, 0, -1)]
            stored = await self._redis.mget([keys.widget_letter(name) for name in names]) if names else []
        return [Delivery.model_validate_json(each) for each in stored if each]

    async def failed_count(self) -> int:
        """How many deliveries were given up and not sent again."""
        with translated():
            return int(await self._redis.zcard(keys.WIDGET_FAILED))

    async def resend(self, delivery: Delivery, url: str, now_s: float) -> None:
        """Put a failed delivery back among those that are due, to `url`."""
        with translated():
            await self._redis.zrem(keys.WIDGET_FAILED, delivery.id)
        await self.keep(delivery.model_copy(update={"url": url, "tries": 0, "failed_s": 0.0, "why": ""}), now_s)

    async def drop(self, delivery_id: str) -> None:
        """Forget a delivery."""
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zrem(keys.WIDGET_OUTBOX, delivery_id)
                pipe.delete(keys.widget_letter(delivery_id))
                await pipe.execute()
