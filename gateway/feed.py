"""One chat's reply as it comes, with everything that can come between: silence, a client that goes, a shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from time import monotonic

from gateway.admit import Admitted
from gateway.call import Call, ClientGone
from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from services.contracts.replies import ReplyEntry
from services.store.replies import Reader

DEADLINE_SLACK_S = 2.0  # the scheduler refuses at the deadline; past this much more, there is none
SILENCE_S_MAX = 300.0


class HandedOver(Exception):
    """This gateway is going down and the chat goes on without it."""


class Feed:
    """What `read` raises ends this client's part; the chat itself is ended by whoever catches it, or not at all."""

    def __init__(self, gateway: Gateway, chat: Admitted, reader: Reader) -> None:
        self._gateway = gateway
        self._reader = reader
        self._ticket = chat.ticket
        self._started = not chat.waits
        wait_s = chat.ticket.deadline_s - gateway.clock() + DEADLINE_SLACK_S
        self._until_s = monotonic() + (max(DEADLINE_SLACK_S, wait_s) if chat.waits else SILENCE_S_MAX)
        self.client_gone = False

    async def read(self, timeout_s: float) -> list[ReplyEntry]:
        """New entries, the queued one left out; empty after `timeout_s`.

        Raises ClientGone, HandedOver, and Refused when there was no word for too long.
        """
        if self._gateway.hand_over:  # whatever is unread, the next gateway sends
            raise HandedOver
        entries = await self._reader.read(min(timeout_s, max(0.0, self._until_s - monotonic())))
        if self.client_gone:
            raise ClientGone
        if entries:
            if entries[0].kind == "queued":
                del entries[0]
            if entries:
                self._started = True
                self._until_s = monotonic() + SILENCE_S_MAX
                return entries
        if self._gateway.hand_over:
            raise HandedOver
        if monotonic() > self._until_s:
            if self._started:
                raise Refused(Code.NO_NEWS, f"The model has said nothing for {SILENCE_S_MAX:.0f} s.")
            raise Refused(Code.DEADLINE, "This chat was not let in before its deadline. Try again later.")
        return entries


@asynccontextmanager
async def feed(gateway: Gateway, call: Call, chat: Admitted) -> AsyncIterator[Feed]:
    """Follow a chat's reply for one client."""
    follow = nullcontext(chat.reader) if chat.reader else gateway.hub.follow(chat.ticket.chat, chat.after)
    with follow as reader:
        entries = Feed(gateway, chat, reader)

        def gone(_: asyncio.Task[None]) -> None:
            entries.client_gone = True
            reader.wake()

        watch = asyncio.create_task(call.gone())
        watch.add_done_callback(gone)
        gateway.readers.add(reader)
        gateway.metrics.chats.inc()
        try:
            yield entries
        finally:
            gateway.readers.discard(reader)
            gateway.metrics.chats.dec()
            watch.remove_done_callback(gone)
            watch.cancel()
