"""HTTP to an engine on loopback: small JSON calls and server-sent events, one connection a request.

Shared by both engines because a general client costs more than the engine's own token at thousands of
events a second. Closing an event stream aborts its connection, which is how an engine learns of a cancel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self, cast

import httptools
import orjson

from services.engines.base import EngineUnavailable

EVENT_BYTES_MAX = 4 << 20  # one event, or one whole JSON answer
_UNREAD_BYTES_MAX = 1 << 20  # past it the socket is not read until the consumer catches up
_EARLY_S = 0.002  # that a timer may come too soon


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

    def take(self) -> bytes:
        """Everything that arrived since the last call."""
        data = b"".join(self.chunks)
        self.chunks.clear()
        self.unread = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data


class EventStream:
    """The events of one answer, as JSON objects, until `[DONE]` or its end. Iterate once.

    Raises EngineUnavailable and HttpStatusError from the iteration. `close` may be called at any time and
    from any task; the iteration then just ends.
    """

    def __init__(self, path: str, response: _Response, first_s: float, next_s: float) -> None:
        self._path, self._response, self._next_s = path, response, next_s
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + first_s
        # One timer for all events: it is set anew only where it would come too early or too late.
        self._timer = self._loop.call_at(self._due, self._look)
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.closed = False

    def close(self) -> None:
        """Abort the connection."""
        self.closed = True
        self._timer.cancel()
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
    """The HTTP side of one engine server. Raises EngineUnavailable and HttpStatusError."""

    def __init__(self, host: str, port: int, key: str, connect_s: float = 2.0) -> None:
        self.host, self.port, self.connect_s = host, port, connect_s
        self._headers = (
            f"Host: {host}:{port}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\n"
        )

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
        return EventStream(path, await self._request("POST", path, body), first_s, next_s)

    async def _call(self, method: str, path: str, body: object, timeout_s: float) -> bytes:
        response = await self._request(method, path, body)
        try:
            data = await _rest(response, path, timeout_s)
        finally:
            _abort(response)
        if response.status != 200:
            raise HttpStatusError(response.status or 0, data)
        return data

    async def _request(self, method: str, path: str, body: object) -> _Response:
        payload = b"" if body is None else orjson.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(payload)}\r\n\r\n"
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
