"""Which conversations there are: those of a bot, and those of all bots that a person should see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.conversations import Conversation

READ_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class IndexedConversation:
    """A conversation, and when it was last changed or began to wait for a person."""

    at_s: float
    conversation: Conversation


class ConversationIndex:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def of_bot(self, bot: str, before_s: float) -> AsyncIterator[IndexedConversation]:
        """Conversations that were last changed before `before_s`, the latest first."""
        name, start = keys.widget_talks(bot), 0
        while True:
            with translated():
                rows = await self._redis.zrevrangebyscore(
                    name, f"({before_s}", "-inf", start=start, num=READ_AT_ONCE, withscores=True
                )
            if not rows:
                return
            for found in await self._read([(session.decode(), at_s) for session, at_s in rows]):
                if found.conversation.bot == bot:
                    yield found
            start += len(rows)

    async def open(self) -> list[IndexedConversation]:
        """All that wait for a person or have one, longest first."""
        with translated():
            rows = await self._redis.zrange(keys.WIDGET_OPEN, 0, -1, withscores=True)
        members = [member.decode() for member, _ in rows]
        found = await self._read(
            [(member.partition(" ")[2], at_s) for member, (_, at_s) in zip(members, rows, strict=True)]
        )
        there = {f"{each.conversation.bot} {each.conversation.session}" for each in found}
        gone = [member for member in members if member not in there]
        if gone:  # their days were over
            with translated():
                await self._redis.zrem(keys.WIDGET_OPEN, *gone)
        return found

    async def delete(self, bot: str, session: str) -> None:
        """Forget a conversation at once."""
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(
                    keys.widget_talk(session),
                    keys.widget_events(session),
                    keys.widget_typing(session),
                    keys.widget_busy(session),
                )
                pipe.zrem(keys.widget_talks(bot), session)
                pipe.zrem(keys.WIDGET_OPEN, f"{bot} {session}")
                await pipe.execute()

    async def _read(self, rows: list[tuple[str, float]]) -> list[IndexedConversation]:
        if not rows:
            return []
        with translated():
            stored = await self._redis.mget([keys.widget_talk(session) for session, _ in rows])
        return [
            IndexedConversation(at_s, Conversation.model_validate_json(text))
            for (_, at_s), text in zip(rows, stored, strict=True)
            if text
        ]
