"""HTTP to an engine on loopback: small JSON calls and server-sent events.

Shared by both engines because a general client costs more than the engine's own token at thousands of
events a second. Closing an event stream before its end aborts its connection: so an engine learns of a cancel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Self, cast

import httptools
import orjson

from services.engines.base import EngineUnavailable

EVENT_BYTES_MAX = 4 << 20  # one event, or one whole JSON answer
_UNREAD_BYTES_MAX = 1 << 20  # past it the socket is not read until the consumer catches up
_EARLY_S = 0.002  # that a timer may come too soon
_IDLE_S_MAX = 1.0  # shorter than uvicorn's 5 s: no connection is used that the server is about to close
_TAIL_S_MAX = 0.5  # from an answer's last event to its end


class HttpStatusError(Exception):
    """An answer other than 200. Each engine knows what its statuses mean."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:500].decode(errors='replace')}")
        self.status = status
        self.body = body

    @property
    def message(self) -> str:
        """The `error.message` or `message` of a JSON body, else the body's text."""
        try:
            body = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            body = None
        if isinstance(body, dict):
            error = body.get("error", body)
            if isinstance(error, dict) and "message" in error:
                return str(error["message"])
            return str(error)
        return self.body[:500].decode(errors="replace")


class _Response(asyncio.Protocol):
    """One response as it arrives. `changed` returns when there is something new to look at."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status: int | None = None
        self.chunks: deque[bytes] = deque()
        self.unread = 0
        self.complete = False
        self.failure: str | None = None
        self.transport: asyncio.Transport | None = None
        self.completed: Callable[[_Response], None] | None = None  # called once, if the end is still to come
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


class _Kept:
    """Connections to one server that wait for a request, the one used last goes first."""

    def __init__(self) -> None:
        self._idle: dict[asyncio.Transport, float] = {}  # since when, on the loop's clock
        self._ending: set[_Response] = set()  # whose last event was read, but not their end
        self._sweep: asyncio.TimerHandle | None = None

    def take(self) -> asyncio.Transport | None:
        before_s = asyncio.get_running_loop().time() - 2 * _IDLE_S_MAX  # older ones: this process stood still
        while self._idle:
            transport, since_s = self._idle.popitem()
            if since_s > before_s and not transport.is_closing():
                return transport
            transport.abort()
        return None

    def give(self, response: _Response) -> None:
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
                self._sweep = loop.call_later(_IDLE_S_MAX, self._end_old, loop)
        elif response.complete or response.completed is not None:
            transport.abort()
        else:
            response.completed = self.give
            self._ending.add(response)
            loop.call_later(_TAIL_S_MAX, self._give_up, response)

    def close(self) -> None:
        for response in self._ending:
            _abort(response)
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
        before_s = loop.time() + _EARLY_S - _IDLE_S_MAX
        for transport in [transport for transport, since_s in self._idle.items() if since_s <= before_s]:
            del self._idle[transport]
            transport.abort()
        if self._idle:
            first_s = next(iter(self._idle.values()))
            self._sweep = loop.call_at(first_s + _IDLE_S_MAX, self._end_old, loop)

    def _give_up(self, response: _Response) -> None:
        if response in self._ending:
            self._ending.discard(response)
            _abort(response)


class EventStream:
    """The events of one answer, as JSON objects, until `[DONE]` or its end. Iterate once.

    Raises EngineUnavailable and HttpStatusError from the iteration. `close` may be called at any time and
    from any task; the iteration then just ends.
    """

    def __init__(self, path: str, response: _Response, kept: _Kept | None, first_s: float, next_s: float) -> None:
        self._path, self._response, self._kept, self._next_s = path, response, kept, next_s
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + first_s
        # One timer for all events: it is set anew only where it would come too early or too late.
        self._timer = self._loop.call_at(self._due, self._look)
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False  # the last event was read
        self.closed = False

    def close(self) -> None:
        """Abort the connection, unless the answer was read to its end."""
        if self.closed:
            return
        self.closed = True
        self._timer.cancel()
        if self._ended and self._kept is not None:
            self._kept.give(self._response)
        else:
            _abort(self._response)
        self._response.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self.closed:
            while self._lines:
                line = self._lines.popleft()
                if not line.startswith(b"data:"):
                    continue
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    self._ended = True
                    raise StopAsyncIteration
                event = _parse(self._path, payload)
                if not isinstance(event, dict):
                    raise EngineUnavailable(f"{self._path}: an event that is no object: {payload[:200]!r}")
                self._due = self._loop.time() + self._next_s
                if self._due < self._timer.when():  # after the first event, which may take longer than others
                    self._timer.cancel()
                    self._timer = self._loop.call_at(self._due, self._look)
                return event
            if self._response.complete and not self._response.chunks:
                self._ended = True
                break
            await self._more()
        raise StopAsyncIteration

    def _late(self) -> bool:
        return self._loop.time() + _EARLY_S >= self._due

    def _look(self) -> None:
        """Wake the iteration when it has waited for too long."""
        if self._late():
            self._response.wake()
        # A comment may wake it too, or it may be busy with the event before: there is always a timer.
        self._timer = self._loop.call_at(max(self._due, self._loop.time() + 10 * _EARLY_S), self._look)

    async def _more(self) -> None:
        """Wait for bytes and split them into lines."""
        response = self._response
        while not (response.chunks or response.complete or self.closed):
            if response.failure is not None:
                raise EngineUnavailable(f"{self._path}: {response.failure}")
            if self._late():
                raise EngineUnavailable(f"{self._path}: no token in time; the engine hangs")
            await response.changed()
        if response.status not in {200, None}:
            body = await _rest(response, self._path, self._next_s)
            raise HttpStatusError(response.status or 0, body)
        *lines, self._rest = (self._rest + response.take()).split(b"\n")
        self._lines.extend(lines)
        if len(self._rest) > EVENT_BYTES_MAX:
            raise EngineUnavailable(f"{self._path}: an event of more than {EVENT_BYTES_MAX} bytes")


class EngineHttp:
    """The HTTP side of one engine server. Raises EngineUnavailable and HttpStatusError.

    `keep`: the server keeps a connection after an event stream, so the next one goes over it.
    """

    def __init__(self, host: str, port: int, key: str, connect_s: float = 2.0, *, keep: bool = False) -> None:
        self.host, self.port, self.connect_s, self.keep = host, port, connect_s, keep
        self._kept = _Kept()
        self._headers = f"Host: {host}:{port}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    def close(self) -> None:
        """End the connections that nobody uses."""
        self._kept.close()

    async def get(self, path: str, timeout_s: float) -> bytes:
        """Body of a GET that answered 200."""
        return await self._call("GET", path, None, timeout_s)

    async def get_json(self, path: str, timeout_s: float) -> Any:
        return _parse(path, await self.get(path, timeout_s))

    async def post_json(self, path: str, body: object, timeout_s: float) -> Any:
        """The JSON that a POST answered; None for an empty body."""
        data = await self._call("POST", path, body, timeout_s)
        return _parse(path, data) if data else None

    async def post(self, path: str, body: object, timeout_s: float) -> bytes:
        """Body of a POST that answered 200, for endpoints that answer in words."""
        return await self._call("POST", path, body, timeout_s)

    async def open_events(self, path: str, body: object, first_s: float, next_s: float) -> EventStream:
        """POST `body` and read the answer as server-sent events.

        A silence of `first_s` before the first event or `next_s` between two is EngineUnavailable. Comments
        (`: ping`) do not count: a server whose decoding hangs goes on sending those.
        """
        response = await self._request("POST", path, body, keep=self.keep)
        return EventStream(path, response, self._kept if self.keep else None, first_s, next_s)

    async def _call(self, method: str, path: str, body: object, timeout_s: float) -> bytes:
        response = await self._request(method, path, body)
        try:
            data = await _rest(response, path, timeout_s)
        finally:
            _abort(response)
        if response.status != 200:
            raise HttpStatusError(response.status or 0, data)
        return data

    async def _request(self, method: str, path: str, body: object, *, keep: bool = False) -> _Response:
        payload = b"" if body is None else orjson.dumps(body)
        end = "" if keep else "Connection: close\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}{end}Content-Length: {len(payload)}\r\n\r\n"
        kept = self._kept.take() if keep else None
        if kept is not None:
            response = _Response()
            response.connection_made(kept)
            kept.set_protocol(response)
            kept.write(head.encode() + payload)
            return response
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_s):
                transport, response = await loop.create_connection(_Response, self.host, self.port)
        except (OSError, TimeoutError) as error:
            raise EngineUnavailable(f"cannot reach {self.host}:{self.port}: {error or 'timeout'}") from error
        transport.write(head.encode() + payload)
        return response


def _abort(response: _Response) -> None:
    if response.transport is not None:
        response.transport.abort()


async def _rest(response: _Response, path: str, timeout_s: float) -> bytes:
    """The whole body."""
    body = b""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            while not response.complete:
                if response.failure is not None:
                    raise EngineUnavailable(f"{path}: {response.failure}")
                await response.changed()
                body += response.take()
                if len(body) > EVENT_BYTES_MAX:
                    raise EngineUnavailable(f"{path}: an answer of more than {EVENT_BYTES_MAX} bytes")
    except TimeoutError:
        raise EngineUnavailable(f"{path}: no answer in time") from None
    return body + response.take()


def _parse(path: str, data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise EngineUnavailable(f"{path}: not JSON ({error}): {data[:200]!r}") from error
