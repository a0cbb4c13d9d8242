"""A chat's reply, from its Redis stream to its client: as server-sent events, or whole.

`Feed` reads it, with everything that can come between: silence, a client that leaves, a shutdown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from time import monotonic

from gateway.answers import BLANK, EVENT_STREAM, PING, STREAM_HEADERS, WAITING, AnswerFormat
from gateway.call import JSON, Call, ClientGone, Header
from gateway.choices import follow
from gateway.metrics import RequestMetrics
from gateway.outcomes import Code, Refused, raise_for_end
from gateway.state import Gateway
from gateway.submit import Admitted
from services.contracts.replies import HERE, QUEUED, ReplyEnd, ReplyEntry
from services.store.connection import QueueUnavailable, retried
from services.store.replies import START, Reader

CANCEL_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
DEADLINE_SLACK_S = 2.0  # the scheduler refuses at the deadline; past this much more, there is none
SILENCE_S_MAX = 300.0


class HandedOver(Exception):
    """This gateway is going down and the chat goes on without it."""


class Feed:
    """What `read` raises ends this client's part; the chat itself is ended by whoever catches it, or not at all."""

    def __init__(self, gateway: Gateway, chat: Admitted, reader: Reader) -> None:
        self._gateway = gateway
        self._reader = reader
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
                raise Refused(Code.NO_NEWS, f"The model has sent nothing for {SILENCE_S_MAX:.0f} s.")
            raise Refused(Code.DEADLINE, "This chat was not admitted before its deadline. Try again later.")
        return entries


@asynccontextmanager
async def _feed(gateway: Gateway, call: Call, chat: Admitted, reader: Reader | None) -> AsyncIterator[Feed]:
    """Follow a chat's reply for one client; with `reader`, where that follows this chat already."""
    follows = reader is not None and reader.chat == chat.ticket.chat
    chats = [ticket.chat for ticket in chat.tickets]
    with nullcontext(reader) if follows and reader else follow(gateway.hub, chats, chat.after) as following:
        entries = Feed(gateway, chat, following)
        following.submitted = True

        def gone(_: asyncio.Task[None]) -> None:
            entries.client_gone = True
            following.wake()

        watch = asyncio.create_task(call.gone())
        watch.add_done_callback(gone)
        gateway.readers.add(following)
        gateway.metrics.chats.inc()
        try:
            yield entries
        finally:
            gateway.readers.discard(following)
            gateway.metrics.chats.dec()
            watch.remove_done_callback(gone)
            watch.cancel()


async def relay_stream(
    gateway: Gateway, call: Call, chat: Admitted, answer: AnswerFormat, reader: Reader | None = None
) -> None:
    """Answer with server-sent events.

    The answer starts when a worker takes the chat, or after early_refusal_s while it waits, so that its client knows
    its id. Raises Refused before the start: an early refusal has a status of its own. After it errors are events.
    """
    stream = _Stream(gateway, call, chat, answer)
    metrics = RequestMetrics(gateway.metrics, chat.ticket, call.began)
    try:
        async with _feed(gateway, call, chat, reader) as entries:
            await stream.run(entries, metrics)
    except ClientGone:
        call.label = "client_gone"
        _client_left(gateway, chat)
    except HandedOver:
        call.label = Code.HANDED_OVER.value
        await _hand_over(gateway, chat)
        if not call.status:
            raise _handed_over() from None
        await call.send(answer.failed(_handed_over()), more=False)
    except Refused as refused:
        if chat.others or (refused.code in (Code.DEADLINE, Code.NO_NEWS) and stream.end is None):
            gateway.in_background(_linger(gateway, chat, 0.0))
        if not call.status:
            raise
        call.label = refused.code.value
        await call.send(answer.failed(refused), more=False)
    finally:
        metrics.close(stream.end, call.label)


async def relay_whole(gateway: Gateway, call: Call, chat: Admitted, answer: AnswerFormat, reader: Reader) -> None:
    """Answer with one JSON object. Raises Refused."""
    metrics = RequestMetrics(gateway.metrics, chat.ticket, call.began)
    reply: list[ReplyEntry] = []
    end: ReplyEnd | None = None
    try:
        async with _feed(gateway, call, chat, reader) as entries:
            while end is None:
                for entry in await entries.read(gateway.config.gateway.ping_s):
                    metrics.see(entry)
                    reply.append(entry)
                    end = entry.end
        body = answer.whole(reply, raise_for_end(end))
        await call.respond(200, body, [JSON, *answer_headers(gateway, call, chat, metrics)])
    except ClientGone:
        call.label = "client_gone"
        if end is None:
            _client_left(gateway, chat)
    except HandedOver:
        await _hand_over(gateway, chat)
        raise _handed_over() from None
    except Refused as refused:
        if end is None or chat.others:
            gateway.in_background(_linger(gateway, chat, 0.0))
        call.label = refused.code.value
        raise
    finally:
        metrics.close(end, call.label)


class _Stream:
    """The events of one answer. `end` is set once the reply's end was sent."""

    def __init__(self, gateway: Gateway, call: Call, chat: Admitted, answer: AnswerFormat) -> None:
        self._gateway = gateway
        self._call = call
        self._chat = chat
        self._answer = answer
        self._begun = chat.after not in (START, QUEUED)
        self.end: ReplyEnd | None = None

    async def run(self, entries: Feed, metrics: RequestMetrics) -> None:
        """Until the end of the reply. Raises what Feed.read raises."""
        ping_s = self._gateway.config.gateway.ping_s
        call = self._call
        first = await self._first(entries)
        if first and first[0].end is not None:
            self.end = first[0].end
            raise_for_end(self.end)
        for entry in first:
            metrics.see(entry)
        await call.start(200, [*STREAM_HEAD, *answer_headers(self._gateway, call, self._chat, metrics)])
        ping = PING if self._chat.resumable else BLANK  # others have no ids
        news, idle = first, WAITING if self._chat.waits and self._chat.resumable else ping
        while True:
            await call.send(self._events(news) if news else idle, more=self.end is None)
            if self.end is not None:
                return
            idle = ping
            news = await entries.read(ping_s)
            for entry in news:
                metrics.see(entry)

    async def _first(self, entries: Feed) -> list[ReplyEntry]:
        """The first entries, or none after early_refusal_s. Nothing is published as a worker takes the chat, only
        with its first piece, so half-way the stream itself is read."""
        half_s = self._gateway.config.gateway.early_refusal_s / 2
        for until_s in (monotonic() + half_s, monotonic() + 2 * half_s):
            while (left_s := until_s - monotonic()) > 0:
                if news := await entries.read(left_s):
                    return news
            self._gateway.hub.look(self._chat.ticket.chat)
        return []

    def _events(self, news: list[ReplyEntry]) -> bytes:
        out: list[bytes] = []
        for entry in news:
            if entry.end is not None:
                self.end = entry.end
                try:
                    raise_for_end(entry.end)
                except Refused as refused:
                    self._call.label = refused.code.value
                    out.append(self._answer.failed(refused))
                    if self._chat.others:
                        self._gateway.in_background(_linger(self._gateway, self._chat, 0.0))
                    break
            if not self._begun:
                self._begun = True
                out.append(self._answer.start(entry.id))
            if entry.end is not None:
                out.append(self._answer.tail(entry.end))
            elif entry.kind != "start":
                out.append(self._answer.entry(entry))
        return b"".join(out)


STREAM_HEAD: list[Header] = [
    (b"content-type", EVENT_STREAM.encode()),
    *((name.encode(), value.encode()) for name, value in STREAM_HEADERS.items()),
]


def answer_headers(gateway: Gateway, call: Call, chat: Admitted, metrics: RequestMetrics) -> list[Header]:
    """What is known of a chat when its answer starts. Its KV bytes are of as many tokens as it may come to hold: what
    is reserved for it, but for the rounding to pages."""
    found: list[Header] = [
        (b"x-bunkhouse-chat", chat.ticket.chat.encode()),
        (b"x-bunkhouse-overhead-ms", b"%.2f" % (call.overhead_s * 1000)),
    ]
    if metrics.kv_bits is not None:
        found.append((b"x-bunkhouse-kv-bits", b"%d" % metrics.kv_bits))
        engine = gateway.engines.get(chat.ticket.model) if metrics.served_by == HERE else None
        if engine is not None and (per_token := engine.bytes_per_token.get(metrics.kv_bits)):
            found.append((b"x-bunkhouse-kv-bytes", b"%d" % (chat.ticket.tokens_max * per_token)))
    if metrics.queue_s is not None:
        found.append((b"x-bunkhouse-queue-ms", b"%.1f" % (metrics.queue_s * 1000)))
    if metrics.served_by is not None:
        found.append((b"x-bunkhouse-served-by", metrics.served_by.encode("latin-1", "replace")))
    return found + call.limit_headers


def _client_left(gateway: Gateway, chat: Admitted) -> None:
    grace_s = gateway.config.gateway.resume_grace_s if chat.resumable else 0.0
    gateway.in_background(_linger(gateway, chat, grace_s))


async def _linger(gateway: Gateway, chat: Admitted, grace_s: float) -> None:
    """Cancel a chat whose client left, unless another client reads it, or takes it up within `grace_s`."""
    await asyncio.sleep(grace_s)
    keep_s = gateway.config.gateway.reply_keep_s
    for ticket in chat.tickets:
        with suppress(QueueUnavailable):
            await retried(
                partial(gateway.submissions.cancel, ticket, keep_s, gateway.clock(), leaving=chat.reader),
                pauses_s=CANCEL_PAUSES_S,
                tries_max=len(CANCEL_PAUSES_S) + 1,
            )


async def _hand_over(gateway: Gateway, chat: Admitted) -> None:
    """Count this client as gone: where it comes back at another gateway, that one alone decides when the chat ends."""
    with suppress(QueueUnavailable):
        for ticket in chat.tickets:
            await gateway.submissions.leave(ticket, chat.reader)


def _handed_over() -> Refused:
    return Refused(
        Code.HANDED_OVER,
        "This gateway is shutting down. The chat continues: GET /v1/chats/{x-bunkhouse-chat}/stream with "
        "Last-Event-ID, or ask again with the same Idempotency-Key.",
    )
