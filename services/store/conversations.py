"""Visitors' conversations with a bot, and counters of what they ask."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from services.store import redis_keys as keys
from services.store.connection import Connection, translated

TURNS_MAX = 200
BUSY_S_MAX = 900  # an answer that takes longer no longer blocks its conversation
READ_S = 60  # an answer that nobody reads for that long is cancelled
MINUTE_S = 60
DAY_S = 86_400
EVENTS_MAX = 200  # kept of one conversation
TYPING_S = 6

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
        """The chat that is being answered, if any. Others may have written behind its turn."""
        turns = reversed(self.turns)
        return next((turn.chat for turn in turns if turn.who == "bot" and turn.chat and turn.finish is None), None)

    def awaits(self, chat: str) -> bool:
        """Whether the answer of `chat` is still to be written down."""
        return any(turn.who == "bot" and turn.chat == chat and turn.finish is None for turn in self.turns)

    @property
    def with_people(self) -> bool:
        """Whether a person answers, or is waited for."""
        return self.state in ("waiting", "person")

    def with_turns(self, *turns: ConversationTurn) -> Conversation:
        """The same with more said."""
        return self.model_copy(update={"turns": (*self.turns, *turns)})

    def with_answer(self, chat: str, **changes: object) -> Conversation:
        """The same with the bot's turn of `chat` changed."""
        turns = tuple(turn.model_copy(update=changes) if turn.chat == chat else turn for turn in self.turns)
        return self.model_copy(update={"turns": turns})


class ConversationEvent(BaseModel):
    """Something that a page which follows a conversation is shown. `data` is JSON."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    data: bytes


class ConversationStore:
    """Methods raise QueueUnavailable.

    Several gateways, visitors and people write at the same moment: `change` reads again where somebody else was
    faster, so that no turn is lost.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._redis: Any = connection.redis

    async def read(self, bot: str, session: str) -> Conversation | None:
        """A conversation of `tenant/bot`, or None."""
        return (await self._read(bot, session))[1]

    async def _read(self, bot: str, session: str) -> tuple[bytes | None, Conversation | None]:
        with translated():
            stored = await self._redis.get(keys.widget_talk(session))
        found = Conversation.model_validate_json(stored) if stored else None
        return stored, found if found is not None and found.bot == bot else None

    async def save(self, conversation: Conversation, keep_days: int) -> None:
        """Keep a new conversation. One that others may write, too, is written by `change`."""
        await self._write("*", None, conversation, keep_days, conversation.began_s)

    async def change(
        self, bot: str, session: str, keep_days: int, now_s: float, changed: Callable[[Conversation], Conversation]
    ) -> Conversation | None:
        """Write what `changed` makes of a conversation. It is called again where somebody else wrote meanwhile.

        Returns what was written; None where there is no such conversation.
        """
        while True:
            stored, found = await self._read(bot, session)
            if stored is None or found is None:
                return None
            new = changed(found)
            if new == found:
                return found
            digest = hashlib.sha1(stored, usedforsecurity=False).hexdigest()
            if await self._write(digest, found, new, keep_days, now_s):
                return new

    async def _write(
        self, digest: str, old: Conversation | None, new: Conversation, keep_days: int, now_s: float
    ) -> bool:
        """Keep a conversation's last TURNS_MAX turns. False where the stored text has another digest."""
        kept = new.model_copy(update={"turns": new.turns[-TURNS_MAX:]})
        member = f"{new.bot} {new.session}"
        args: list[str | bytes | int | float] = [digest, kept.model_dump_json(), keep_days * DAY_S, now_s, new.session]
        args += [member if new.with_people else "", member, EVENTS_MAX, *_events(old, new)]
        names = [keys.widget_talk(new.session), keys.widget_talks(new.bot), keys.WIDGET_OPEN]
        return bool(await self._connection.script("converse", [*names, keys.widget_events(new.session)], args))

    async def events(self, session: str, after: str) -> list[ConversationEvent]:
        """What happened after the event `after`."""
        with translated():
            found = await self._redis.xrange(keys.widget_events(session), min=f"({after}")
        return [ConversationEvent(id=name.decode(), name=row[b"n"].decode(), data=row[b"d"]) for name, row in found]

    async def last_event(self, session: str) -> str:
        """The id of the newest event; what comes later has a higher one."""
        with translated():
            found = await self._redis.xrevrange(keys.widget_events(session), count=1)
        return found[0][0].decode() if found else "0-0"

    async def types(self, session: str, *, on: bool) -> None:
        """A person writes, or stopped. Without another word it counts as stopped after TYPING_S."""
        key = keys.widget_typing(session)
        with translated():
            if on:
                await self._redis.set(key, 1, ex=TYPING_S)
            else:
                await self._redis.delete(key)

    async def is_typing(self, session: str) -> bool:
        """Whether a person writes."""
        with translated():
            return bool(await self._redis.exists(keys.widget_typing(session)))

    async def hold(self, session: str, chat: str) -> bool:
        """Mark a conversation as being answered. False where it is already."""
        with translated():
            return bool(await self._redis.set(keys.widget_busy(session), chat, nx=True, ex=BUSY_S_MAX))

    async def let_go(self, session: str, chat: str) -> None:
        """The answer of `chat` is complete. Nothing happens where another chat has its place by now."""
        await self._connection.script("let_go", [keys.widget_busy(session)], [chat])

    async def reading(self, chat: str) -> None:
        """Some page reads this answer now."""
        with translated():
            await self._redis.set(keys.widget_read(chat), 1, ex=READ_S)

    async def is_read(self, chat: str) -> bool:
        """Whether some page read this answer within READ_S."""
        with translated():
            return bool(await self._redis.exists(keys.widget_read(chat)))

    async def first_time(self, what: str, keep_s: int) -> bool:
        """Whether this was not seen within `keep_s`."""
        name = keys.widget_once(hashlib.sha256(what.encode()).hexdigest())
        with translated():
            return bool(await self._redis.set(name, 1, nx=True, ex=keep_s))

    async def count(self, what: str, most: int, now_s: float, window_s: int = MINUTE_S) -> float | None:
        """Count one message. Seconds until the next window where there were more than `most` in this one, else None."""
        window = int(now_s // window_s)
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.incr(keys.widget_rate(what, window))
                pipe.expire(keys.widget_rate(what, window), 2 * window_s)
                count, _ = await pipe.execute()
        return (window + 1) * window_s - now_s if count > most else None

    async def uncount(self, what: str, now_s: float, window_s: int = MINUTE_S) -> None:
        """Take one message back that was counted at `now_s`."""
        with translated():
            await self._redis.decr(keys.widget_rate(what, int(now_s // window_s)))


def _events(old: Conversation | None, new: Conversation) -> list[str | bytes]:
    """Name and data of each event that a page sees of a change. Answers of the bot have their own streams."""
    before = () if old is None else old.turns
    events: list[str | bytes] = []
    for turn in new.turns[len(before) :]:
        if not turn.chat:
            shown = {"who": turn.who, "text": turn.text, "name": turn.name, "at_s": turn.at_s}
            events += ["turn", orjson.dumps(shown)]
    if new.state != ("bot" if old is None else old.state):
        events += ["state", orjson.dumps({"state": new.state})]
    return events
