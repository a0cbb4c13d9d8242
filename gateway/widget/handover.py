"""A visitor asks for a person: the tenant's webhook is told, at once or as soon as it answers.

Letters wait in Redis, so that none is lost with a gateway; whichever gateway is free takes the next due one by moving
its time forward, and a gateway that dies with a letter in hand leaves it due again. At least once: receivers tell
repeats by `id`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict

from gateway.widget.sites import WidgetSite, webhook_secret
from gateway.widget.webhook import WebhookFailed, post, signature
from services.store.connection import Connection, QueueUnavailable
from services.store.conversations import Conversation
from services.store.deliveries import Delivery, DeliveryStore

TRY_AFTER_S = (2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)  # then it is given up
IN_HAND_S = 30.0  # a letter taken by a gateway is due again after it
LOOK_S = 1.0
log = structlog.get_logger()


class HandoverMessage(BaseModel):
    """What a webhook receives as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # the same at each try
    event: str = "handover.requested"
    at_s: float
    bot: str
    session: str
    contact: str
    note: str
    page: str
    turns: list[dict[str, Any]]  # who: visitor | bot, text, at_s


class Outbox:
    """Takes letters in and delivers them. `send` is the seam to the network."""

    def __init__(
        self,
        connection: Connection,
        pepper: bytes,
        clock: Callable[[], float],
        send: Callable[[str, bytes, dict[str, str]], Awaitable[None]] = post,
    ) -> None:
        self._store = DeliveryStore(connection)
        self._pepper = pepper
        self._clock = clock
        self._send = send
        self._woken = asyncio.Event()

    async def put(self, place: WidgetSite, talk: Conversation, *, contact: str, note: str, page: str) -> str:
        """Write the letter. Returns its id. Raises QueueUnavailable."""
        now_s = self._clock()
        message = HandoverMessage(
            id=f"ho-{secrets.token_hex(12)}",
            at_s=now_s,
            bot=place.bot,
            session=talk.session,
            contact=contact,
            note=note,
            page=page,
            turns=[turn.model_dump(include={"who", "text", "at_s"}) for turn in talk.turns],
        )
        url = place.widget.handover_webhook or ""
        letter = Delivery(id=message.id, bot=place.bot, url=url, body=message.model_dump_json())
        await self._store.keep(letter, now_s)
        self._woken.set()
        return letter.id

    async def run(self) -> None:
        """Deliver until cancelled. Outlasts a Redis that goes away."""
        while True:
            try:
                while await self.deliver_next():
                    pass
            except QueueUnavailable as error:
                log.warning("widget.outbox_unavailable", why=str(error))
            try:
                await asyncio.wait_for(self._woken.wait(), LOOK_S)
            except TimeoutError:
                continue
            self._woken.clear()

    async def deliver_next(self) -> bool:
        """Try the next due letter. False when none is due."""
        taken = await self._store.take(self._clock(), IN_HAND_S)
        if taken is None:
            return False
        _, letter = taken
        if letter is None:
            return True
        try:
            await self._deliver(letter)
        except WebhookFailed as error:
            await self._failed(letter, error)
        except Exception:  # this task's outermost loop: one letter's bug must not keep all others
            log.exception("widget.handover_given_up", bot=letter.bot, letter=letter.id)
            await self._store.drop(letter.id)
        else:
            log.info("widget.handover_delivered", bot=letter.bot, letter=letter.id, tries=letter.tries + 1)
            await self._store.drop(letter.id)
        return True

    async def _deliver(self, letter: Delivery) -> None:
        body = letter.body.encode()
        signed = signature(webhook_secret(letter.bot, self._pepper), int(self._clock()), body)
        await self._send(letter.url, body, {"x-bunkhouse-signature": signed, "x-bunkhouse-delivery": letter.id})

    async def _failed(self, letter: Delivery, error: WebhookFailed) -> None:
        if error.final or letter.tries >= len(TRY_AFTER_S):
            log.error("widget.handover_given_up", bot=letter.bot, letter=letter.id, why=str(error))
            await self._store.drop(letter.id)
            return
        wait_s = TRY_AFTER_S[letter.tries]
        log.warning("widget.handover_failed", bot=letter.bot, letter=letter.id, why=str(error), again_in_s=wait_s)
        await self._store.keep(letter.model_copy(update={"tries": letter.tries + 1}), self._clock() + wait_s)
