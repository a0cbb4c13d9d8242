"""The worker's side of the queues: take, write the reply, settle."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import orjson
import structlog
from redis.exceptions import ResponseError

from services.contracts.chats import ChatUsage, KvBits, Ticket
from services.contracts.control import ControlMessage
from services.contracts.engines import EngineFacts, EngineReport
from services.contracts.replies import HERE, QUEUED, ContentKind, ReplyEnd, join_logprobs
from services.store import redis_keys as keys
from services.store.charges import counters, day_of, month_of
from services.store.commands import Commands
from services.store.connection import Connection, QueueUnavailable, pairs, translated
from services.store.engine_records import EngineRecords, decode_engine
from services.store.records import LOGPROBS, RAW, TEXT_FIELDS, ClaimedChat, decode, decode_entry, decode_payload, encode
from services.store.submission import CHAT_KEEP_S

GROUP_MISSING = re.compile("NOGROUP|UNBLOCKED")  # the second: the stream went while a read blocked on it

T = TypeVar("T")

_CONTENT = ContentKind.CONTENT  # an enum finds its members slowly

log = structlog.get_logger()


class Settled(StrEnum):
    """What became of a settlement."""

    OK = "ok"
    FENCED = "fenced"  # a newer attempt has the chat
    DONE = "done"  # it was settled before


class ReplyPiece(NamedTuple):
    """A piece of an answer on its way to a reply stream, right behind the piece at `after`."""

    chat: str
    attempt: int
    place: int
    text: str
    tokens: int
    after: int = -1  # -1: place - 1
    start: tuple[int, float] | None = None  # of a chat's very first piece: its KV bits, and seconds it waited
    content: ContentKind = ContentKind.CONTENT
    raw: str | None = None  # the model's own text of this piece; None: it is `text`
    logprobs: str = ""

    def and_then(self, later: ReplyPiece) -> ReplyPiece:
        """This piece and the next of the same attempt and content as one."""
        text, tokens = self.text + later.text, self.tokens + later.tokens
        raw = None if self.raw is None and later.raw is None else self.written + later.written
        logprobs = join_logprobs(self.logprobs, later.logprobs) if later.logprobs else self.logprobs
        head = (self.chat, self.attempt, later.place, text, tokens, self.before)
        return ReplyPiece(*head, self.start, self.content, raw, logprobs)

    @property
    def written(self) -> str:
        """The text as the model wrote it."""
        return self.text if self.raw is None else self.raw

    @property
    def extras(self) -> tuple[bytes | str, ...]:
        """Names and values of the further fields that its entry has."""
        raw = () if self.raw is None else (RAW, self.raw)
        return (*raw, LOGPROBS, self.logprobs) if self.logprobs else raw

    @property
    def before(self) -> int:
        """Place of the piece that this one follows."""
        return self.place - 1 if self.after < 0 else self.after


class Written(NamedTuple):
    """What earlier attempts of a chat wrote of its answer, together."""

    text: str = ""  # as the model wrote it
    tokens: int = 0
    reasoning_tokens: int = 0


class WorkConsumer:
    """One model's worker works here. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection, model: str, consumer: str, served_by: str = HERE) -> None:
        self.served_by = served_by
        self._connection = connection
        self._model = model
        self._consumer = consumer
        self._ready = keys.ready(model)

    async def open(self) -> None:
        """Make the ready stream's consumer group if it is missing, and put chats there that it has lost."""
        with translated():
            try:
                await self._connection.redis.xgroup_create(self._ready, keys.GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
                return
        mended = await self._connection.script("mend", [self._ready, keys.RESERVATIONS], [self._model, keys.chat("")])
        if mended:
            log.warning("queue.mended", model=self._model, chats=mended)

    async def _in_group(self, step: Callable[[], Awaitable[T]]) -> T | None:
        """What a step with the consumer group answers. None where the group was missing: it is there now."""
        try:
            return await step()
        except QueueUnavailable as error:
            if not isinstance(error.__cause__, ResponseError) or not GROUP_MISSING.search(str(error)):
                raise
        log.warning("queue.lost", model=self._model)
        await self.open()
        return None

    async def take(self, count: int, block_ms: int) -> list[tuple[str, str]]:
        """Up to `count` admitted chats as (entry id, chat), new to this group."""
        group = ("XREADGROUP", "GROUP", keys.GROUP, self._consumer)
        command = (*group, "COUNT", count, "BLOCK", block_ms, "STREAMS", self._ready, ">")
        entries = await self._in_group(lambda: self._connection.read_blocking(command, block_ms))
        return [(entry.decode(), pairs(values)[b"chat"].decode()) for entry, values in entries or () if values]

    async def mine(self) -> list[tuple[str, str]]:
        """Chats that this consumer took before it died."""
        return _chats(await self._in_group(self._mine))

    async def _mine(self) -> Any:
        with translated():
            return await self._connection.redis.xreadgroup(keys.GROUP, self._consumer, {self._ready: "0"})

    async def abandoned(self, idle_ms_min: int) -> list[tuple[str, str]]:
        """Chats of workers that have not kept theirs for `idle_ms_min`; they are this consumer's now."""
        return await self._in_group(lambda: self._abandoned(idle_ms_min)) or []

    async def _abandoned(self, idle_ms_min: int) -> list[tuple[str, str]]:
        taken: list[tuple[str, str]] = []
        cursor: Any = "0-0"
        with translated():
            while True:
                cursor, entries, *_ = await self._connection.redis.xautoclaim(
                    self._ready, keys.GROUP, self._consumer, idle_ms_min, cursor, count=100
                )
                taken += [(entry.decode(), values[b"chat"].decode()) for entry, values in entries if values]
                if cursor in (b"0-0", "0-0"):  # an empty answer with another cursor only means: go on
                    return taken

    async def keep(self, entries: Sequence[str]) -> None:
        """Say that this worker is alive and still has these entries."""
        if entries:
            await self._in_group(lambda: self._claim_again(entries))

    async def _claim_again(self, entries: Sequence[str]) -> None:
        with translated():
            await self._connection.redis.xclaim(self._ready, keys.GROUP, self._consumer, 0, list(entries), justid=True)

    async def held(self, chats: Mapping[str, tuple[int, float]]) -> None:
        """Write down what chats have held so far, each by its attempt: KV byte-seconds, of all its attempts."""
        if chats:
            args = [value for attempt, held in chats.values() for value in (attempt, f"{held:.3f}")]
            await self._connection.script("held", [keys.chat(chat) for chat in chats], args)

    async def claim(self, entry: str, chat: str) -> ClaimedChat | None:
        """Start an attempt. None when the chat has ended or is forgotten; its entry is then acknowledged."""
        answer = await self._connection.script(
            "claim",
            [keys.chat(chat), keys.reply(chat), self._ready, keys.RESERVATIONS, keys.EVENTS],
            [self.served_by, chat, entry, keys.GROUP, CHAT_KEEP_S],
        )
        state = answer[0].decode()
        if state in ("done", "gone"):
            return None
        return ClaimedChat(
            attempt=int(answer[1]),
            ticket=decode(Ticket, answer[2]),
            payload=decode_payload(answer[3]),
            kv_bits=KvBits(int(answer[4])),
            queue_s=float(answer[5]),
            cancelled=state == "cancelled",
            kv_byte_seconds=float(answer[6]),
        )

    async def written(self, chat: str) -> Written:
        """What is in the reply stream already."""
        with translated():
            stored = await self._connection.redis.xrange(keys.reply(chat))
        entries = [decode_entry(place, values) for place, values in stored]
        return Written(
            "".join(
                values[RAW].decode() if RAW in values else entry.text
                for entry, (_, values) in zip(entries, stored, strict=True)
            ),
            sum(entry.tokens for entry in entries),
            sum(entry.tokens for entry in entries if entry.content is ContentKind.REASONING),
        )

    async def write(self, lines: Sequence[ReplyPiece]) -> set[str]:
        """Append pieces to their replies in one round trip. Returns the chats that a newer attempt has taken over.

        A line that was written before a connection broke is refused for its place, and counts as written. That a chat
        has started is news only with its first piece, which spares readers a turn; who waits longer for that one finds
        the start in the stream.
        """
        written: list[str] = []
        args: list[object] = []
        for line in lines:  # one a token: the plainest kind comes first, and nothing is looked up twice
            chat, attempt, number, text, tokens, after, started, content, raw, logprobs = line
            place, before = f"{attempt}-{number}", f"{attempt}-{number - 1 if after < 0 else after}"
            if content is _CONTENT and not logprobs:
                field, news = "t", orjson.dumps((chat, before, place, text, tokens))
            else:
                field = TEXT_FIELDS[content]
                news = orjson.dumps((chat, before, place, text, tokens, field, logprobs))
            if started is not None:
                bits, queue_s = started
                start = {"b": bits, "q": queue_s, "s": self.served_by}
                news = orjson.dumps((chat, QUEUED, f"{attempt}-0", start)) + b"," + news
            written += (keys.reply(chat), keys.chat(chat))
            if raw is None and not logprobs:
                args += (place, field, text, tokens, news)
            else:
                extras = line.extras
                args += (place, f"{field}{len(extras)}", text, tokens, news, *extras)
        refused = await self._connection.script("write", written, args)
        return {lines[number - 1].chat for number in refused if await self._fenced(lines[number - 1])}

    async def _fenced(self, line: ReplyPiece) -> bool:
        with translated():
            attempt = await self._connection.redis.hget(keys.chat(line.chat), "attempt")
        return attempt is None or int(attempt) != line.attempt

    async def cancelled(self, chats: Sequence[str]) -> set[str]:
        """Those of these chats that their client gave up: the durable side of the control channel."""
        if not chats:
            return set()
        with translated():
            async with self._connection.redis.pipeline(transaction=False) as pipe:
                for chat in chats:
                    pipe.hexists(keys.chat(chat), "cancelled")
                flags = await pipe.execute()
        return {chat for chat, flag in zip(chats, flags, strict=True) if flag}

    async def settle(
        self, ticket: Ticket, attempt: int, end: ReplyEnd, *, usage: ChatUsage | None, keep_s: int, now_s: float
    ) -> Settled:
        """End a chat: reply, reservation, usage and acknowledgement in one step."""
        code = end.error.code if end.error else None
        event = orjson.dumps({"chat": ticket.chat, "usage": usage})
        if ticket.choice and usage is not None:  # the scheduler counts what it took, the bill names the prompt once
            usage = replace(usage, prompt_tokens=0, cached_tokens=0)
            end = replace(end, usage=usage)
        answer = await self._connection.script(
            "settle",
            [
                keys.chat(ticket.chat),
                keys.reply(ticket.chat),
                keys.RESERVATIONS,
                self._ready,
                keys.EVENTS,
                keys.usage(day_of(now_s), ticket.tenant, ticket.usage_bot),
                keys.USAGES,
                keys.spent(month_of(ticket.created_s), ticket.tenant),
            ],
            [
                ticket.chat,
                attempt,
                encode(end),
                event,
                keep_s,
                keys.GROUP,
                *counters(usage, end.finish, code),
                *(("overflow_chats", 1) if usage and end.served_by != HERE else ()),
            ],
        )
        return Settled(answer.decode())

    async def publish_engine(self, facts: EngineFacts, report: EngineReport) -> None:
        """Describe the engine for the scheduler."""
        stored = orjson.dumps({"facts": facts, "report": report}, option=orjson.OPT_NON_STR_KEYS)
        with translated():
            await self._connection.redis.hset(keys.ENGINES, self._model, stored)

    async def last_seen(self) -> tuple[EngineFacts, float] | None:
        """The engine as an earlier worker of the same run of the host described it last, and when."""
        with translated():
            stored = await self._connection.redis.hget(keys.ENGINES, self._model)
            same_run = await self._connection.redis.hexists(keys.PROGRESS, self._model)  # a start of the host clears it
        if not stored or not same_run:
            return None
        seen = decode_engine(stored)
        return seen.facts, seen.report.at_s

    async def give_up(self) -> None:
        """Say that the model's engine will not come up. The scheduler ends the chats that wait for it."""
        await EngineRecords(self._connection).give_up([self._model])

    async def came_up(self) -> None:
        """Undo that, whoever said it."""
        with translated():
            await self._connection.redis.srem(keys.GIVEN_UP, self._model)

    async def backlog(self) -> int:
        """Chats that were dispatched to this model and have not ended."""
        with translated():
            return int(await self._connection.redis.xlen(self._ready))

    async def demoted(self, chat: str, bits: KvBits) -> None:
        """Tell the scheduler that a chat's KV was lowered, and write it down with its reservation's bits."""
        event = orjson.dumps({"chat": chat, "kv_bits": int(bits)})
        await self._connection.script("demoted", [keys.chat(chat), keys.EVENTS], [int(bits), event])

    def command_store(self) -> Commands:
        """Commands to this host's workers."""
        return Commands(self._connection)

    async def progress(self, words: str) -> None:
        """Tell the start-up display what the engine is doing."""
        with translated():
            await self._connection.redis.hset(keys.PROGRESS, self._model, words)

    async def commands(self) -> AsyncIterator[ControlMessage]:
        """Cancellations and commands as they come. Ends with QueueUnavailable when the connection breaks."""
        pubsub = self._connection.blocking.pubsub()
        with translated():
            try:
                await pubsub.subscribe(keys.control_channel(self._model))
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        yield decode(ControlMessage, message["data"])
            finally:
                await pubsub.aclose()


def _chats(answer: Any) -> list[tuple[str, str]]:
    if not answer:
        return []
    entries = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))[0]
    return [(entry.decode(), values[b"chat"].decode()) for entry, values in entries if values]
