"""Visitors' conversations, and counters of what they ask, in Redis.

key                          type    holds
bh:widget:talk:SESSION       string  one conversation, forgotten after the bot's keep_days
bh:widget:busy:SESSION       string  the chat being answered: one at a time in a conversation
bh:widget:read:CHAT          string  present while some page reads the answer
bh:widget:rate:WHAT:MINUTE   string  messages in one minute
bh:widget:outbox             zset    webhooks to deliver, by the Unix time of the next try
bh:widget:letter:ID          string  one webhook
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gateway.outcomes import Code, Refused
from gateway.widget.sites import WidgetSite
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

TURNS_MAX = 200
BUSY_S_MAX = 900  # an answer that takes longer no longer blocks its conversation
READ_S = 60  # an answer that nobody reads for that long is cancelled
_MINUTE_S = 60


class ConversationTurn(BaseModel):
    """One thing said. A bot's turn without `finish` is still being answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: Literal["visitor", "bot"]
    text: str
    at_s: float
    chat: str | None = None
    finish: str | None = None


class Conversation(BaseModel):
    """A conversation. `session` is unguessable; who knows it may read it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str
    bot: str
    began_s: float
    turns: tuple[ConversationTurn, ...] = ()
    handed_over_s: float | None = None

    @property
    def pending(self) -> str | None:
        """The chat that is being answered, if any."""
        last = self.turns[-1] if self.turns else None
        return last.chat if last is not None and last.who == "bot" and last.finish is None else None


class ConversationStore:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def begin(self, place: WidgetSite, now_s: float) -> Conversation:
        """A new conversation, stored with its first turn."""
        return Conversation(session=secrets.token_urlsafe(24), bot=place.bot, began_s=now_s)

    async def talk(self, place: WidgetSite, session: str) -> Conversation:
        """A conversation of this bot. Raises Refused where there is none."""
        with translated():
            stored = await self._redis.get(keys.widget_talk(session))
        talk = Conversation.model_validate_json(stored) if stored else None
        if talk is None or talk.bot != place.bot:
            raise Refused(Code.NOT_FOUND, "There is no such conversation, or it was forgotten.")
        return talk

    async def save(self, place: WidgetSite, talk: Conversation) -> None:
        """Keep a conversation's last TURNS_MAX turns."""
        kept = talk.model_copy(update={"turns": talk.turns[-TURNS_MAX:]})
        with translated():
            await self._redis.set(
                keys.widget_talk(talk.session), kept.model_dump_json(), ex=place.widget.keep_days * 86_400
            )

    async def hold(self, session: str, chat: str) -> bool:
        """Mark a conversation as being answered. False where it is already."""
        with translated():
            return bool(await self._redis.set(keys.widget_busy(session), chat, nx=True, ex=BUSY_S_MAX))

    async def let_go(self, session: str) -> None:
        """The answer is complete."""
        with translated():
            await self._redis.delete(keys.widget_busy(session))

    async def reading(self, chat: str) -> None:
        """Some page reads this answer now."""
        with translated():
            await self._redis.set(keys.widget_read(chat), 1, ex=READ_S)

    async def is_read(self, chat: str) -> bool:
        """Whether some page read this answer within READ_S."""
        with translated():
            return bool(await self._redis.exists(keys.widget_read(chat)))

    async def count(self, limits: dict[str, int], now_s: float) -> None:
        """Count one message against `what -> messages a minute`. Raises Refused at the first limit reached."""
        minute = int(now_s // _MINUTE_S)
        names = list(limits)
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                for name in names:
                    pipe.incr(keys.widget_rate(name, minute))
                    pipe.expire(keys.widget_rate(name, minute), 2 * _MINUTE_S)
                counts = (await pipe.execute())[::2]
        for name, count in zip(names, counts, strict=True):
            if count > limits[name]:
                raise Refused(
                    Code.RATE_LIMIT,
                    "Too many messages in a short time. Please wait a moment.",
                    retry_after_s=(minute + 1) * _MINUTE_S - now_s,
                )
