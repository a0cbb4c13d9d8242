"""Reading many reply streams at once.

Workers publish what they append as news: entries, each with the place of the one before it. A reader that stands at
that place takes the entry as it is; any other reader's stream is read from where it stands, all of them in one round
trip. A sweep over all readers once a second makes up for lost news: the streams are the truth, news only save time.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import structlog
from redis.exceptions import RedisError, ResponseError

from services.contracts.replies import Finish, ReplyEnd, ReplyEntry, ReplyError
from services.store import redis_keys as keys
from services.store.connection import Connection, QueueUnavailable, translated
from services.store.records import decode_entry, decode_news

SWEEP_S = 1.0
RETRY_S = 0.2
START = "0-0"
ENTRY_ID = re.compile(r"[0-9]{1,9}-[0-9]{1,15}")  # not \d: Redis takes no other script's digits

UNREADABLE = (LookupError, TypeError, ValueError)  # what decoding raises at another version's records

LOST = ReplyEnd(Finish.ERROR, error=ReplyError("queue_unavailable", "The host lost this chat. Send it again.", 1.0))

log = structlog.get_logger()


class Reader:
    """One client's place in one reply stream. `submitted`: Redis has had the chat, and if it has not now, lost it."""

    def __init__(self, chat: str, after: str, *, submitted: bool = True) -> None:
        self.chat = chat
        self.after = after
        self.submitted = submitted
        self.ended = False
        self.on_news: Callable[[], None] | None = None
        self._news: list[ReplyEntry] = []
        self._woken = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_s = 0.0  # when it fires. uvloop's handle of a time that is now does not tell
        self._until_s = 0.0  # on the loop's clock

    def give(self, before: str, entries: list[ReplyEntry]) -> None:
        """Hand over what follows the entry at `before`. A reader that has moved on meanwhile takes what it lacks."""
        if before != self.after:
            here = place_of(self.after)
            entries = [entry for entry in entries if place_of(entry.id) > here]
        if entries:
            self.after = entries[-1].id
            self.ended = entries[-1].end is not None
            self._news += entries
            self.wake()

    def wake(self) -> None:
        """Make `read` return at once, though there may be nothing."""
        self._woken = True
        if self.on_news is not None:
            self.on_news()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, timeout_s: float) -> list[ReplyEntry]:
        """What came since the last call; waits for the first. Empty after `timeout_s` or when woken."""
        if not self._woken:
            await self._wait(timeout_s)
        return self.taken()

    def taken(self) -> list[ReplyEntry]:
        """What came since the last call."""
        self._woken = False
        news, self._news = self._news, []
        return news

    async def _wait(self, timeout_s: float) -> None:
        """One timer serves many waits: it is set anew only when it fires early. A token costs no timer."""
        loop = asyncio.get_running_loop()
        self._until_s = loop.time() + timeout_s
        if self._timer is not None and self._timer_s > self._until_s:
            self.close()
        if self._timer is None:
            self._set_timer(loop)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if loop.time() < self._until_s:
            self._set_timer(loop)
        else:
            self.wake()

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer_s = self._until_s
        self._timer = loop.call_at(self._until_s, self._late, loop)

    def close(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ReplyHub:
    """All reply streams that this process relays. `run` must be running."""

    def __init__(self, connection: Connection) -> None:
        self.channel = keys.reply_channel(secrets.token_hex(8))  # news of the chats followed here, and of no others
        self._connection = connection
        self._attended: set[str] = set()  # chats whose news come to `channel`
        self._left: list[str] = []  # chats that ran when their last reader left
        self._readers: dict[str, set[Reader]] = defaultdict(set)
        self._dirty: set[str] = set()
        self._work = asyncio.Event()

    @contextmanager
    def follow(self, chat: str, after: str = START, *, fresh: bool = False) -> Iterator[Reader]:
        """A reader of one reply, from the entry after `after`.

        `fresh`: there is nothing yet, news will come. Whoever submits the chat sets the reader's `submitted` then.
        """
        reader = Reader(chat, after, submitted=not fresh)
        self._readers[chat].add(reader)
        if fresh:
            self._attended.add(chat)
        else:
            self._mark([chat])
        try:
            yield reader
        finally:
            reader.close()
            self._readers[chat].discard(reader)
            if not self._readers[chat]:
                del self._readers[chat]
                self._attended.discard(chat)
                if not reader.ended and (not fresh or reader.after != after):
                    self._left.append(chat)
                    self._work.set()

    def look(self, chat: str) -> None:
        """Read the chat's stream now, for what is in it and was not news."""
        self._mark([chat])

    async def run(self) -> None:
        """Read for all readers until cancelled. Outlasts a Redis that goes away."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._sweep())
            tasks.create_task(self._read())

    def _hear(self, data: bytes) -> None:
        """What cannot be read, the sweep makes up for: during an upgrade another version may speak."""
        try:
            for chat, before, place, *what in orjson.loads(data):
                for reader in self._readers.get(chat, ()):
                    if reader.after == before:
                        reader.give(before, [decode_news(place, *what)])
                    else:
                        self._mark([chat])
        except UNREADABLE as error:
            log.warning("replies.news_unreadable", error=repr(error))

    def _mark(self, chats: list[str]) -> None:
        self._dirty.update(chat for chat in chats if chat in self._readers)
        if self._dirty:
            self._work.set()

    async def _listen(self) -> None:
        while True:
            try:
                await self._connection.listen(self.channel, self._hear)
            except QueueUnavailable:
                await asyncio.sleep(RETRY_S)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._read_all()
            except QueueUnavailable as error:
                log.warning("replies.sweep_failed", why=str(error))
            self._mark([chat for chat in self._readers if chat not in self._attended])

    async def _read_all(self) -> None:
        """Read for all readers, and end the replies of chats that Redis had and has no more."""
        await self._read_for([reader for chat in self._readers.values() for reader in chat])

    async def _read(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            chats, self._dirty = self._dirty, set()
            left, self._left = self._left, []
            readers = [reader for chat in chats for reader in self._readers.get(chat, ())]
            try:
                await self._attend([chat for chat in left if chat not in self._readers], wanted=False)
                new = [chat for chat in chats if chat not in self._attended]
                self._attended.update(chat for chat in await self._attend(new, wanted=True) if chat in self._readers)
                await self._read_for(readers)
            except QueueUnavailable:
                await asyncio.sleep(RETRY_S)
                self._mark(list(chats))

    async def _attend(self, chats: list[str], *, wanted: bool) -> list[str]:
        """Have the news of chats come to `channel`, or no longer. Returns those that there are.

        Before their streams are read: what is written after that comes as news.
        """
        if not chats:
            return []
        names = [keys.chat(chat) for chat in chats]
        known = await self._connection.script("attend", names, [self.channel, int(wanted)])
        return [chat for chat, there in zip(chats, known, strict=True) if there]

    async def _read_for(self, readers: list[Reader]) -> None:
        if not readers:
            return
        begun = [(reader, reader.after, reader.submitted) for reader in readers]
        with translated():
            async with self._connection.redis.pipeline(transaction=False) as pipe:
                for reader, after, _ in begun:
                    pipe.xrange(keys.reply(reader.chat), min=f"({after}")
                    pipe.exists(keys.chat(reader.chat), keys.reply(reader.chat))
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, RedisError) and not isinstance(answer, ResponseError):
                    raise answer
        for (reader, after, submitted), entries, there in zip(begun, answers[::2], answers[1::2], strict=True):
            try:
                if isinstance(entries, ResponseError):
                    raise entries
                if entries:
                    reader.give(after, [decode_entry(place, values) for place, values in entries])
            except (ResponseError, *UNREADABLE) as error:  # this stream's trouble, and nobody else's
                log.error("replies.unreadable", chat=reader.chat, error=repr(error))
            if submitted and there < 2 and not reader.ended:
                reader.give(reader.after, [ReplyEntry(reader.after, "end", end=LOST)])


def place_of(entry_id: str) -> tuple[int, int]:
    """An entry id as numbers that compare: (attempt, number)."""
    attempt, _, number = entry_id.partition("-")
    return int(attempt), int(number)
