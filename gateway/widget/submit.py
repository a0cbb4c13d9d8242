"""Chats that the host itself asks for a tenant's bot: from its widget, and from the dashboard's playground.

They wait, count and are billed like any other chat of that tenant; only who asks is known otherwise than by an API key.
"""

from __future__ import annotations

from gateway import limits
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.tickets import payload_for, ticket_for
from scheduler.types import Ticket
from services.queues.door import Submitted
from services.queues.limits import Charge
from services.registry import salt

STALE_TRIES_MAX = 5


async def submit(
    gateway: Gateway, tenant: str, request: ChatRequest, *, chat: str, session: str, call: str
) -> tuple[Ticket, Charge | None]:
    """Put one chat in the waiting room of `tenant`. Raises Refused, QueueUnavailable."""
    for _ in range(STALE_TRIES_MAX):
        bot, version = gateway.directory.bot(tenant, request.model), gateway.directory.version
        prompt = await gateway.prompts.prepare(bot, request)
        now_s = gateway.clock()
        model = gateway.config.models[bot.config.model]
        ticket = ticket_for(chat, bot, model, request, prompt, session=session, call=call, now_s=now_s)
        payload = payload_for(bot, request, prompt, salt(tenant, gateway.secrets.salt))
        with gateway.breaker:
            charge = await limits.charge(gateway, ticket, now_s)
            submission = await gateway.door.submit(ticket, payload, registry_version=version)
            if submission.outcome is Submitted.OK:
                return ticket, charge
            await limits.give_back_all(gateway, charge, ticket)
            if submission.outcome is not Submitted.STALE:
                raise Refused(Code.QUEUE_FULL, "Too many chats are waiting right now. Please try again in a moment.")
            await gateway.directory.reload()
    raise Refused(Code.QUEUE_UNAVAILABLE, "The host's configuration keeps changing. Try again.")
