"""A chat's reply, from its Redis stream to its client: as server-sent events, or whole."""

from __future__ import annotations

import asyncio
from time import monotonic

from gateway.admit import Admitted
from gateway.call import JSON, Call, ClientGone, Header
from gateway.chunks import PING, Chunks, completion, error_event, handed_over
from gateway.feed import Feed, HandedOver, feed
from gateway.outcomes import Code, Refused, from_reply
from gateway.request_metrics import RequestMetrics
from gateway.state import Gateway
from services.contracts.replies import HERE, Finish, ReplyEnd, ReplyEntry
from services.store.connection import QueueUnavailable
from services.store.redis_keys import QUEUED
from services.store.replies import START

CANCEL_TRIES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STILL_READ_S = 1.0  # how often a chat that another client reads is looked at


async def relay_stream(gateway: Gateway, call: Call, chat: Admitted, *, include_usage: bool) -> None:
    """Answer with server-sent events.

    An early refusal still gets a status of its own: the answer starts at the first word of the worker, or after ping_s.
    Raises Refused before the start; after it errors are events.
    """
    stream = _Stream(gateway, call, chat, Chunks(chat.ticket, include_usage))
    tally = RequestMetrics(gateway.metrics, call, chat.ticket)
    try:
        async with feed(gateway, call, chat) as entries:
            await stream.run(entries, tally)
    except ClientGone:
        call.label = "client_gone"
        linger(gateway, chat, gateway.config.gateway.resume_grace_s)
    except HandedOver:
        call.label = Code.HANDED_OVER.value
        if not call.status:
            raise _handed_over() from None
        await call.send(handed_over(_handed_over().body()), more=False)
    except Refused as refused:
        if refused.code in (Code.DEADLINE, Code.NO_NEWS) and stream.end is None:
            linger(gateway, chat, 0.0)
        if not call.status:
            raise
        call.label = refused.code.value
        await call.send(error_event(refused.body()), more=False)
    finally:
        tally.close(stream.end)


async def relay_whole(gateway: Gateway, call: Call, chat: Admitted) -> None:
    """Answer with one JSON object. Raises Refused."""
    tally = RequestMetrics(gateway.metrics, call, chat.ticket)
    parts: list[str] = []
    end: ReplyEnd | None = None
    try:
        async with feed(gateway, call, chat) as entries:
            while end is None:
                for entry in await entries.read(gateway.config.gateway.ping_s):
                    tally.see(entry)
                    parts.append(entry.text)
                    end = entry.end
        body = completion(chat.ticket, "".join(parts), good(end))
        await call.respond(200, body, [JSON, *answer_headers(gateway, call, chat, tally)])
    except ClientGone:
        call.label = "client_gone"
        if end is None:
            linger(gateway, chat, gateway.config.gateway.resume_grace_s if chat.keyed else 0.0)
    except HandedOver:
        raise _handed_over() from None
    except Refused as refused:
        if end is None:
            linger(gateway, chat, 0.0)
        call.label = refused.code.value
        raise
    finally:
        tally.close(end)


class _Stream:
    """The events of one answer. `end` is set once the reply's end was sent."""

    def __init__(self, gateway: Gateway, call: Call, chat: Admitted, chunks: Chunks) -> None:
        self._gateway = gateway
        self._call = call
        self._chat = chat
        self._chunks = chunks
        self._role_sent = chat.after not in (START, QUEUED)
        self.end: ReplyEnd | None = None

    async def run(self, entries: Feed, tally: RequestMetrics) -> None:
        """Until the end of the reply. Raises what Feed.read raises."""
        ping_s = self._gateway.config.gateway.ping_s
        call = self._call
        first = await self._first(entries, ping_s)
        if first and first[0].end is not None:
            self.end = first[0].end
            good(self.end)
        for entry in first:
            tally.see(entry)
        await call.start(200, [*_STREAM_HEADERS, *answer_headers(self._gateway, call, self._chat, tally)])
        news = first
        while True:
            await call.send(self._events(news) if news else PING, more=self.end is None)
            if self.end is not None:
                return
            news = await entries.read(ping_s)
            for entry in news:
                tally.see(entry)

    @staticmethod
    async def _first(entries: Feed, ping_s: float) -> list[ReplyEntry]:
        until_s = monotonic() + ping_s
        while (left_s := until_s - monotonic()) > 0:
            news = await entries.read(left_s)
            if news:
                return news
        return []

    def _events(self, news: list[ReplyEntry]) -> bytes:
        out: list[bytes] = []
        for entry in news:
            if entry.end is not None:
                self.end = entry.end
                try:
                    good(entry.end)
                except Refused as refused:
                    self._call.label = refused.code.value
                    out.append(error_event(refused.body()))
                    break
            if not self._role_sent:
                self._role_sent = True
                out.append(self._chunks.role(entry.id))
            if entry.text:
                out.append(self._chunks.text(entry.id, entry.text))
            elif entry.end is not None:
                out.append(self._chunks.tail(entry.end))
        return b"".join(out)


_STREAM_HEADERS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


def answer_headers(gateway: Gateway, call: Call, chat: Admitted, tally: RequestMetrics) -> list[Header]:
    """What is known of a chat when its answer starts. Its KV bytes are of as many tokens as it may come to hold: what
    is reserved for it, but for the rounding to pages."""
    found: list[Header] = [
        (b"x-bunkhouse-chat", chat.ticket.chat.encode()),
        (b"x-bunkhouse-overhead-ms", b"%.2f" % (call.overhead_s * 1000)),
    ]
    if tally.kv_bits is not None:
        found.append((b"x-bunkhouse-kv-bits", b"%d" % tally.kv_bits))
        engine = gateway.engines.get(chat.ticket.model) if tally.served_by == HERE else None
        if engine is not None and (per_token := engine.bytes_per_token.get(tally.kv_bits)):
            found.append((b"x-bunkhouse-kv-bytes", b"%d" % (chat.ticket.tokens_max * per_token)))
    if tally.queue_s is not None:
        found.append((b"x-bunkhouse-queue-ms", b"%.1f" % (tally.queue_s * 1000)))
    if tally.served_by is not None:
        found.append((b"x-bunkhouse-served-by", tally.served_by.encode("latin-1", "replace")))
    return found + call.limit_headers


def linger(gateway: Gateway, chat: Admitted, grace_s: float) -> None:
    """Cancel a chat whose client went away, unless another client reads it, or takes it up within `grace_s`."""
    task = asyncio.create_task(_linger(gateway, chat, grace_s))
    gateway.lingering.add(task)
    task.add_done_callback(gateway.lingering.discard)


async def _linger(gateway: Gateway, chat: Admitted, grace_s: float) -> None:
    await asyncio.sleep(grace_s)
    while any(reader.chat == chat.ticket.chat for reader in gateway.readers):  # noqa: ASYNC110  (seldom, and simple)
        await asyncio.sleep(STILL_READ_S)
    keep_s = gateway.config.gateway.reply_keep_s
    for pause_s in CANCEL_TRIES_S:
        try:
            await gateway.door.cancel(chat.ticket, keep_s, gateway.clock(), readers=chat.readers)
            return
        except QueueUnavailable:
            await asyncio.sleep(pause_s)


def good(end: ReplyEnd) -> ReplyEnd:
    """The end, if it is a good one. Raises Refused."""
    if end.error is not None:
        raise from_reply(end.error)
    if end.finish is Finish.CANCELLED:
        raise Refused(Code.CANCELLED, "This chat was cancelled.")
    if end.finish is Finish.ERROR:
        raise Refused(Code.ENGINE_FAILED, "The model failed on this chat.")
    return end


def _handed_over() -> Refused:
    return Refused(
        Code.HANDED_OVER,
        "This gateway is going down. The chat goes on: GET /v1/chats/{x-bunkhouse-chat}/stream with Last-Event-ID, or "
        "ask again with the same Idempotency-Key.",
    )
