"""One chat that the host itself asks, and its whole answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from gateway.answers import text_of
from gateway.outcomes import raise_for_end
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.submit import Admitted, Caller, new_chat_id, submit
from services.contracts.chats import Ticket
from services.contracts.replies import QUEUED, ReplyEnd, ReplyEntry
from services.store.connection import QueueUnavailable
from services.store.replies import Reader

READ_S = 5.0


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that has ended well."""

    ticket: Ticket
    text: str
    end: ReplyEnd


async def ask_whole(gateway: Gateway, caller: Caller, request: ChatRequest, until_s: float) -> WholeAnswer:
    """Submit a chat and wait for its end; `until_s` is on the event loop's clock. A chat that nobody waits for any more
    is cancelled. Raises Refused, QueueUnavailable, TimeoutError."""
    chat = new_chat_id()
    with gateway.hub.follow(chat, QUEUED, fresh=True) as reader:
        admitted = await submit(gateway, caller, request, chat)
        reader.submitted = True
        gateway.readers.add(reader)
        try:
            async with asyncio.timeout_at(until_s):
                entries, end = await _whole(reader)
        except BaseException:
            gateway.in_background(_cancel(gateway, admitted))
            raise
        finally:
            gateway.readers.discard(reader)
    raise_for_end(end)
    return WholeAnswer(admitted.ticket, text_of(entries), end)


async def _whole(reader: Reader) -> tuple[list[ReplyEntry], ReplyEnd]:
    entries: list[ReplyEntry] = []
    while True:
        entries += await reader.read(READ_S)
        if entries and (end := entries[-1].end) is not None:
            return entries, end


async def _cancel(gateway: Gateway, admitted: Admitted) -> None:
    with suppress(QueueUnavailable):
        await gateway.submissions.cancel(admitted.ticket, gateway.config.gateway.reply_keep_s, gateway.clock())
