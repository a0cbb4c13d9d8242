"""Chats that nobody can be reading: all gateway processes that follow them are gone, and said nothing."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient

SWEEP_S_MIN = 10.0  # a gateway whose connection broke subscribes again sooner

log = structlog.get_logger()


class UnreadChats:
    """Cancels such chats. A gateway that is killed counts none of its readers as left, so others have to look.

    A process is there while it subscribes to its channel of news. Methods raise QueueUnavailable.
    """

    def __init__(self, connection: Connection, models: Collection[str]) -> None:
        """`models`: all that are served, providers too."""
        self._connection = connection
        self._models = list(models)
        self._scheduling = SchedulerStore(connection)
        self._chats = SubmissionClient(connection)
        self._suspects: set[str] = set()

    async def sweep(self, keep_s: int, now_s: float) -> int:
        """Cancel those that were unread at the last sweep and still are. Returns how many."""
        unread = await self._unread()
        cancelled = 0
        for chat in unread & self._suspects:
            info = await self._chats.chat(chat)
            if info is not None and await self._chats.cancel(info.ticket, keep_s, now_s):
                log.info("chat.unread", chat=chat)
                cancelled += 1
        self._suspects = unread
        return cancelled

    async def _unread(self) -> set[str]:
        chats = [*{ticket.chat for ticket in await self._scheduling.waiting()} | await self._dispatched()]
        if not chats:
            return set()
        flags = await self._connection.script("unread", [keys.chat(chat) for chat in chats], [])
        return {chat for chat, flag in zip(chats, flags, strict=True) if flag}

    async def _dispatched(self) -> set[str]:
        with translated():
            async with self._connection.redis.pipeline(transaction=False) as pipe:
                for model in self._models:
                    pipe.xrange(keys.ready(model))
                streams = await pipe.execute()
        return {values[b"chat"].decode() for entries in streams for _, values in entries}
