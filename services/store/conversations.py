"""Visitors' conversations with a bot, and counters of what they ask."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

TURNS_MAX = 200
BUSY_S_MAX = 900  # an answer that takes longer no longer blocks its conversation
READ_S = 60  # an answer that nobody reads for that long is cancelled
_MINUTE_S = 60

Speaker = Literal["visitor", "bot", "person"]
ConversationState = Literal["bot", "waiting", "person", "closed"]  # who answers; waiting: for a person


class Source(BaseModel):
    """Where an answer's facts come from, as a visitor sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    url: str | None = None


class Confirmation(BaseModel):
    """A question that the visitor answers with yes or no before an action is carried out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    action: str
    text: str


class ConversationTurn(BaseModel):
    """One thing said. A bot's turn without `finish` is still being answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: Speaker
    text: str
    at_s: float
    chat: str | None = None
    finish: str | None = None
    sources: tuple[Source, ...] = ()
    rating: Literal["up", "down"] | None = None  # by the visitor
    rating_note: str = ""
    name: str = ""  # a person's, as the visitor sees it
    missed: bool = False  # the bot did not know the answer


class Conversation(BaseModel):
    """A conversation. `session` is unguessable; who knows it may read it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: str
    bot: str
    began_s: float
    turns: tuple[ConversationTurn, ...] = ()
    handed_over_s: float | None = None
    state: ConversationState = "bot"
    visitor: str = ""  # the id that the page vouches for; "": not identified
    visitor_name: str = ""
    language: str = ""
    contact: str = ""
    confirm: Confirmation | None = None  # what the visitor is being asked

    @classmethod
    def new(cls, bot: str, now_s: float) -> Conversation:
        """One without a turn, not yet stored."""
        return cls(session=secrets.token_urlsafe(24), bot=bot, began_s=now_s)

    @property
    def pending(self) -> str | None:
        """The chat that is being answered, if any."""
        last = self.turns[-1] if self.turns else None
        return last.chat if last is not None and last.who == "bot" and last.finish is None else None


class ConversationStore:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._redis: Any = connection.redis

    async def read(self, bot: str, session: str) -> Conversation | None:
        """A conversation of `tenant/bot`, or None."""
        with translated():
            stored = await self._redis.get(keys.widget_talk(session))
        found = Conversation.model_validate_json(stored) if stored else None
        return found if found is not None and found.bot == bot else None

    async def save(self, conversation: Conversation, keep_days: int) -> None:
        """Keep a conversation's last TURNS_MAX turns."""
        kept = conversation.model_copy(update={"turns": conversation.turns[-TURNS_MAX:]})
        with translated():
            await self._redis.set(keys.widget_talk(kept.session), kept.model_dump_json(), ex=keep_days * 86_400)

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

    async def count(self, what: str, most: int, now_s: float) -> float | None:
        """Count one message. Seconds until the next minute where there were more than `most` in this one, else None."""
        minute = int(now_s // _MINUTE_S)
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.incr(keys.widget_rate(what, minute))
                pipe.expire(keys.widget_rate(what, minute), 2 * _MINUTE_S)
                count, _ = await pipe.execute()
        return (minute + 1) * _MINUTE_S - now_s if count > most else None

    async def uncount(self, what: str, now_s: float) -> None:
        """Take one message back that was counted at `now_s`."""
        with translated():
            await self._redis.decr(keys.widget_rate(what, int(now_s // _MINUTE_S)))
