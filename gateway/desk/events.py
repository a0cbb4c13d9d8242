"""A conversation with a person as its page sees it: server-sent events that can be resumed at any gateway.

Events are in Redis. Each open page is a look into its stream every LOOK_S, over the gateway's one connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.answers import PING, event
from gateway.state import Gateway
from services.store.connection import QueueUnavailable
from services.store.conversations import ConversationStore

LOOK_S = 0.5
FOLLOW_S_MAX = 3600.0  # then the page connects again


async def follow(gateway: Gateway, store: ConversationStore, session: str, after: str) -> AsyncIterator[bytes]:
    """`turn`, `state` and `typing` events from `after` on. Pings when idle, ends when this gateway stops.

    A page that lost its network resumes elsewhere, so an unavailable Redis ends the stream.
    """
    clock = asyncio.get_running_loop().time
    until_s = clock() + FOLLOW_S_MAX
    sent_s, typing = float("-inf"), False
    while not gateway.hand_over and clock() < until_s:
        try:
            found = await store.events(session, after)
            types = await store.is_typing(session)
        except QueueUnavailable:
            return
        parts = [event(each.data, name=each.name, entry_id=each.id) for each in found]
        if types != typing:
            parts.append(event({"on": types}, name="typing"))
        after, typing = (found[-1].id if found else after), types
        if parts or clock() - sent_s > gateway.config.gateway.ping_s:
            yield b"".join(parts) or PING
            sent_s = clock()
        await asyncio.sleep(LOOK_S)
