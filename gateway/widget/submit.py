"""Chats that the host itself asks for a tenant's bot: from its widget, and from the dashboard's playground.

They wait, count and are billed like any other chat of that tenant, but for the playground's, which do not count against
its rate limits; and who asks is known otherwise than by an API key.
"""

from __future__ import annotations

from gateway import limits
from gateway.admit import prepare
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.state import Gateway
from services.contracts.chats import Ticket
from services.store.submission import Submitted

STALE_TRIES_MAX = 5


async def submit(
    gateway: Gateway, tenant: str, request: ChatRequest, *, chat: str, session: str, call: str, limited: bool = True
) -> Ticket:
    """Put one chat in the waiting room of `tenant`, within its rate limits or beside them. Raises Refused,
    QueueUnavailable."""
    for _ in range(STALE_TRIES_MAX):
        ticket, payload, version = await prepare(gateway, tenant, request, chat=chat, session=session, call=call)
        with gateway.breaker:
            windows = limits.windows(gateway, ticket) if limited else ()
            submission = await gateway.door.submit(ticket, payload, registry_version=version, windows=windows)
            if submission.outcome is Submitted.OK:
                return ticket
            if submission.outcome is not Submitted.STALE:
                raise limits.refusal(submission.charge, ticket.created_s) or Refused(
                    Code.QUEUE_FULL, "Too many chats are waiting right now. Please try again in a moment."
                )
            await gateway.directory.reload()
    raise Refused(Code.QUEUE_UNAVAILABLE, "The host's configuration keeps changing. Try again.")
