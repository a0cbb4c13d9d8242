"""Chats whose model, tenant or bot is gone. No worker would ever end them, and what they reserve stays reserved."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import structlog

from services.contracts.chats import Ticket
from services.contracts.decisions import Decision, Outcome, Reason
from services.contracts.replies import Finish, ReplyEnd, ReplyError
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.registry import Registry
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient
from services.store.unserved import REPLY_KEEP_S
from services.store.work import WorkConsumer

WHY = "This chat's model or bot is no longer on this host."

log = structlog.get_logger()


class Orphans:
    """Ends such chats at a host's start, before its processes run. `models` are all that are served, providers too.

    Methods raise QueueUnavailable.
    """

    def __init__(self, connection: Connection, models: Collection[str], registry: Registry) -> None:
        self._connection = connection
        self._models = models
        self._registry = registry
        self._scheduling = SchedulerStore(connection)
        self._chats = SubmissionClient(connection)

    async def end(self, now_s: float) -> int:
        """End them all with `model_down`, and delete the ready streams of models that are gone. Returns how many."""
        ended = 0
        for ticket in await self._scheduling.waiting():
            if self._gone(ticket):
                refused = Decision(ticket.chat, Outcome.REJECT, Reason.MODEL_DOWN, ticket.kv_bits)
                await self._scheduling.refuse("", ticket, refused, WHY, now_s)
                ended += 1
        async for model, chat in self._dispatched():
            ended += await self._end(model, chat, now_s)
        with translated():
            for model in await self._ready_models():
                if model not in self._models:
                    await self._connection.redis.delete(keys.ready(model))
        if ended:
            log.warning("chats.orphaned", ended=ended)
        return ended

    def _gone(self, ticket: Ticket) -> bool:
        return ticket.model not in self._models or self._registry.bot(ticket.tenant, ticket.bot) is None

    async def _end(self, model: str, chat: str, now_s: float) -> bool:
        info = await self._chats.chat(chat)
        if info is None:  # forgotten
            with translated():
                await self._connection.redis.hdel(keys.RESERVATIONS, chat)
            return False
        if model in self._models and not self._gone(info.ticket):
            return False
        end = ReplyEnd(Finish.ERROR, error=ReplyError(Reason.MODEL_DOWN.value, WHY))
        work = WorkConsumer(self._connection, model, "orphans")
        await work.settle(info.ticket, info.attempt, end, usage=None, keep_s=REPLY_KEEP_S, now_s=now_s)
        return info.state != "done"

    async def _dispatched(self) -> AsyncIterator[tuple[str, str]]:
        """Model, or provider, and chat of all that was dispatched and has not ended."""
        for held in await self._scheduling.reservations():
            yield held.model, held.chat
        for model in await self._ready_models():
            with translated():
                entries = await self._connection.redis.xrange(keys.ready(model))
            for _, values in entries:
                yield model, values[b"chat"].decode()

    async def _ready_models(self) -> list[str]:
        with translated():
            names = [name async for name in self._connection.redis.scan_iter(match=keys.ready("*"))]
        return [name.decode().removeprefix(keys.ready("")) for name in names]
