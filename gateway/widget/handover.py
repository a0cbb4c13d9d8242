"""A visitor asks for a person: the bot's receivers are told (webhook, Slack, e-mail), at once or as soon as possible.

Letters wait in Redis, so that none is lost with a gateway; whichever gateway is free takes the next due one by moving
its time forward, and a gateway that dies with a delivery in hand leaves it due again. At least once: receivers tell
repeats by `id`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping

import structlog
from pydantic import BaseModel, ConfigDict

from gateway.desk import mail as by_mail
from gateway.desk.adapters import headers_of, slack_message
from gateway.desk.mail import MailFailed
from gateway.widget.sites import WidgetSite
from gateway.widget.webhook import WebhookFailed, post
from services.config.mail import MailConfig
from services.store.connection import Connection, QueueUnavailable
from services.store.conversations import Conversation, Speaker
from services.store.deliveries import Delivery, DeliveryStore

TRY_AFTER_S = (2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 21600.0)  # then it is given up
IN_HAND_S = 30.0  # a delivery taken by a gateway is due again after it
LOOK_S = 1.0
log = structlog.get_logger()


class SaidTurn(BaseModel):
    """One thing said, as a webhook receives it."""

    who: Speaker
    text: str
    at_s: float


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
    turns: list[SaidTurn]


class Outbox:
    """Takes deliveries in and delivers them. `send` is the seam to the network."""

    def __init__(
        self,
        connection: Connection,
        pepper: bytes,
        clock: Callable[[], float],
        send: Callable[[str, bytes, dict[str, str]], Awaitable[None]] = post,
        mail: MailConfig | None = None,
    ) -> None:
        self._store = DeliveryStore(connection)
        self._pepper = pepper
        self._clock = clock
        self._send = send
        self._mail = mail
        self._woken = asyncio.Event()

    async def put(self, site: WidgetSite, conversation: Conversation, *, contact: str, note: str, page: str) -> str:
        """Write a delivery for each receiver. Returns the handover's id. Raises QueueUnavailable."""
        now_s = self._clock()
        message = HandoverMessage(
            id=f"ho-{secrets.token_hex(12)}",
            at_s=now_s,
            bot=site.bot,
            session=conversation.session,
            contact=contact,
            note=note,
            page=page,
            turns=[SaidTurn(who=turn.who, text=turn.text, at_s=turn.at_s) for turn in conversation.turns],
        )
        if site.widget.handover_webhook is not None:
            url, body = site.widget.handover_webhook, message.model_dump_json()
            await self._store.keep(Delivery(id=message.id, bot=site.bot, url=url, body=body), now_s)
        if site.widget.handover_slack is not None:
            url, body = site.widget.handover_slack, slack_message(site.bot, contact, note, page, conversation.turns)
            slack = Delivery(id=f"{message.id}-slack", bot=site.bot, url=url, kind="slack", body=body)
            await self._store.keep(slack, now_s)
        if site.widget.handover_email is not None and self._mail is not None:
            facts = {"Contact": contact, "Note": note, "Page": page}
            await self._store.keep(self._by_mail(self._mail, site, conversation, message.id, facts), now_s)
        self._woken.set()
        return message.id

    def _by_mail(
        self, mail: MailConfig, site: WidgetSite, conversation: Conversation, handover: str, facts: Mapping[str, str]
    ) -> Delivery:
        to, name = site.widget.handover_email or "", f"{handover}-email"
        reply_to = None
        if mail.replies_to is not None:
            reply_to = by_mail.reply_address(mail.replies_to, site.bot, conversation.session, self._pepper)
        now_s, turns = self._clock(), conversation.turns
        body = by_mail.announcement(
            mail, to, name, bot=site.bot, reply_to=reply_to, at_s=now_s, facts=facts, turns=turns
        )
        return Delivery(id=name, bot=site.bot, url=to, kind="email", body=body)

    async def run(self) -> None:
        """Deliver until cancelled. Outlasts a Redis that goes away."""
        while True:
            try:
                while await self.deliver_next():
                    pass
            except QueueUnavailable as error:
                log.warning("widget.outbox_unavailable", why=str(error))
            try:
                async with asyncio.timeout(LOOK_S):  # wait_for may swallow a cancellation in Python 3.11
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    async def deliver_next(self) -> bool:
        """Try the next due delivery. False when none is due."""
        taken = await self._store.take(self._clock(), IN_HAND_S)
        if taken is None:
            return False
        _, delivery = taken
        if delivery is None:
            return True
        try:
            await self._deliver(delivery)
        except (WebhookFailed, MailFailed) as error:
            await self._failed(delivery, error)
        except Exception:  # this task's outermost loop: one delivery's bug must not keep all others
            log.exception("widget.handover_given_up", bot=delivery.bot, delivery=delivery.id)
            await self._store.fail(delivery, "An internal error occurred; see the gateway's log.", self._clock())
        else:
            log.info("widget.handover_delivered", bot=delivery.bot, delivery=delivery.id, tries=delivery.tries + 1)
            await self._store.drop(delivery.id)
        return True

    async def _deliver(self, delivery: Delivery) -> None:
        if delivery.kind == "email":
            if self._mail is None:
                raise MailFailed("this host has no `mail` server any more", final=True)
            await by_mail.send(self._mail, delivery.url, delivery.body)
            return
        headers = headers_of(delivery, self._pepper, self._clock())
        await self._send(delivery.url, delivery.body.encode(), headers)

    async def _failed(self, delivery: Delivery, error: WebhookFailed | MailFailed) -> None:
        if error.final or delivery.tries >= len(TRY_AFTER_S):
            log.error("widget.handover_given_up", bot=delivery.bot, delivery=delivery.id, why=str(error))
            await self._store.fail(delivery, str(error), self._clock())
            return
        wait_s = TRY_AFTER_S[delivery.tries]
        log.warning("widget.handover_failed", bot=delivery.bot, delivery=delivery.id, why=str(error), again_in_s=wait_s)
        await self._store.keep(delivery.model_copy(update={"tries": delivery.tries + 1}), self._clock() + wait_s)
