"""Replies of people from elsewhere: a help desk posts them, signed as the host signs what it sends there.

    POST /widget/v1/handover-replies/{tenant}/{bot}   {session, text, name, then} -> 202

`x-bunkhouse-signature: t=SECONDS,v1=HEX` is HMAC-SHA256 over `SECONDS.BODY` with the bot's webhook secret. A reply is
taken once, and within OLD_S_MAX.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from gateway.desk.people import moved, replied
from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from gateway.widget.sites import WidgetSites, webhook_secret
from gateway.widget.webhook import signature
from services.store.conversations import Conversation, ConversationState, ConversationStore

OLD_S_MAX = 300
SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=[0-9a-f]{64}")


class ReplyFromElsewhere(BaseModel):
    """What a person wrote in another program. `then`: who has the conversation after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{32}$")]
    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)] = ""
    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=60)] = ""
    then: Literal["person", "bot", "closed"] = "person"


class ReplyTaken(BaseModel):
    """The state of the conversation."""

    state: ConversationState


def add(routes: APIRouter, gateway: Gateway, store: ConversationStore, sites: Callable[[], WidgetSites]) -> None:
    """Add the route."""

    @routes.post("/widget/v1/handover-replies/{tenant}/{bot}", status_code=202)
    async def take(request: Request, tenant: str, bot: str) -> ReplyTaken:
        """A reply from a help desk."""
        name, body = f"{tenant}/{bot}", await request.body()
        site = next((site for site in sites().all() if site.bot == name), None)
        signed = request.headers.get("x-bunkhouse-signature", "")
        _check(name, gateway, signed, body)
        if site is None:
            raise Refused(Code.NOT_FOUND, "This bot has no widget.")
        try:
            reply = ReplyFromElsewhere.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise Refused(Code.INVALID_VALUE, str(first["msg"]), param=".".join(map(str, first["loc"]))) from error
        now_s = gateway.clock()

        def answered(now: Conversation) -> Conversation:
            return moved(replied(now, reply.text, reply.name, now_s) if reply.text else now, reply.then)

        if not await store.first_time(signed, 2 * OLD_S_MAX):
            raise Refused(Code.INVALID_VALUE, "This reply was taken before.")
        done = await store.change(name, reply.session, site.widget.keep_days, now_s, answered)
        if done is None:
            raise Refused(Code.NOT_FOUND, "This conversation does not exist, or it has expired.")
        return ReplyTaken(state=done.state)


def _check(bot: str, gateway: Gateway, signed: str, body: bytes) -> None:
    """Raises Refused unless the bot's secret signed the body a short time ago."""
    found = SIGNATURE.fullmatch(signed)
    at_s = int(found[1]) if found else 0
    right = signature(webhook_secret(bot, gateway.secrets.pepper), at_s, body)
    if not hmac.compare_digest(right, signed if signed.isascii() else "") or abs(gateway.clock() - at_s) > OLD_S_MAX:
        raise Refused(Code.INVALID_API_KEY, "The signature is not valid, or it is older than five minutes.")
