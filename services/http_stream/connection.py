"""HTTP/1.1 on bare asyncio protocols, parsed by httptools: one response at a time on a connection.

A general client costs more than an engine's own token at thousands of events a second.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

TAIL_S_MAX = 0.5  # from the last byte that was wanted to an answer's end
_UNREAD_BYTES_MAX = 1 << 20  # past it the socket is not read until the consumer catches up
EARLY_S = 0.002  # that a timer may come too soon


class Response(asyncio.Protocol):
    """One response as it arrives. `changed` returns when there is something new to look at."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status: int | None = None
        self.chunks: deque[bytes] = deque()
        self.unread = 0
        self.complete = False
        self.failure: str | None = None
        self.transport: asyncio.Transport | None = None
        self.completed: Callable[[Response], None] | None = None  # called once, if the end is still to come
        self._kept_alive = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.failure = f"not HTTP: {error}"
        if self.unread > _UNREAD_BYTES_MAX and not self._paused and self.transport is not None:
            self.transport.pause_reading()
            self._paused = True
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.complete:
            self.failure = self.failure or f"connection lost{f': {exc}' if exc else ''}"
        self.wake()

    def abort(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.abort()

    def wake(self) -> None:
        """Let `changed` return."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def changed(self) -> None:
        """For one caller at a time, which has looked at everything there was."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)
        self.unread += len(body)

    def on_message_complete(self) -> None:
        self.complete = True
        self._kept_alive = bool(self.parser.should_keep_alive())  # the parser forgets it after this call
        if self.completed is not None:
            self.completed(self)

    @property
    def reusable(self) -> bool:
        """Whether the next request may go out on this connection."""
        return self.complete and self._kept_alive and not self._paused and self.failure is None

    def take(self) -> bytes:
        """Everything that arrived since the last call."""
        data = b"".join(self.chunks)
        self.chunks.clear()
        self.unread = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data


class _Idle(asyncio.Protocol):
    """A connection between two requests. Whatever the server says on it ends it."""

    def __init__(self, transport: asyncio.Transport, gone: Callable[[asyncio.Transport], None]) -> None:
        self._transport = transport
        self._gone = gone

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._gone(self._transport)


class ConnectionPool:
    """Connections to one server. Idle ones are ended after `idle_s_max`; the one used last goes first.

    `idle_s_max` should be shorter than the server's own limit: no connection is used that the server is about to close.
    """

    def __init__(
        self, host: str, port: int, *, connect_s_max: float, idle_s_max: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host, self.port = host, port
        self._connect_s_max, self._idle_s_max, self._tls = connect_s_max, idle_s_max, tls
        self._idle: dict[asyncio.Transport, float] = {}  # since when, on the loop's clock
        self._ending: set[Response] = set()  # whose last event was read, but not their end
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, request: bytes, response: Response, *, kept: bool) -> bool:
        """Write `request`; `response` takes the answer. True: over a kept connection, where `kept` allows that.

        Raises OSError, of which TimeoutError is one.
        """
        transport = self._take() if kept else None
        if transport is not None:
            response.connection_made(transport)
            transport.set_protocol(response)
            transport.write(request)
            return True
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s_max):
            made, _ = await loop.create_connection(lambda: response, self.host, self.port, ssl=self._tls)
        made.write(request)
        return False

    def _take(self) -> asyncio.Transport | None:
        before_s = asyncio.get_running_loop().time() - 2 * self._idle_s_max  # older ones: this process stood still
        while self._idle:
            transport, since_s = self._idle.popitem()
            if since_s > before_s and not transport.is_closing():
                return transport
            transport.abort()
        return None

    def give(self, response: Response) -> None:
        """Keep an answered request's connection, or end it. An answer whose last event was read may take a moment."""
        self._ending.discard(response)
        transport = response.transport
        if transport is None or transport.is_closing():
            return
        loop = asyncio.get_running_loop()
        if response.reusable:
            transport.set_protocol(_Idle(transport, self._forget))
            self._idle[transport] = loop.time()
            if self._sweep is None:
                self._sweep = loop.call_later(self._idle_s_max, self._end_old, loop)
        elif response.complete or response.completed is not None:
            transport.abort()
        else:
            response.completed = self.give
            self._ending.add(response)
            loop.call_later(TAIL_S_MAX, self._give_up, response)

    def close(self) -> None:
        for response in self._ending:
            response.abort()
        self._ending.clear()
        for transport in self._idle:
            transport.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _forget(self, transport: asyncio.Transport) -> None:
        self._idle.pop(transport, None)

    def _end_old(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        before_s = loop.time() + EARLY_S - self._idle_s_max
        for transport in [transport for transport, since_s in self._idle.items() if since_s <= before_s]:
            del self._idle[transport]
            transport.abort()
        if self._idle:
            first_s = next(iter(self._idle.values()))
            self._sweep = loop.call_at(first_s + self._idle_s_max, self._end_old, loop)

    def _give_up(self, response: Response) -> None:
        if response in self._ending:
            self._ending.discard(response)
            response.abort()
