"""HTTP to an engine on loopback: small JSON calls and server-sent events.

Shared by both engines because a general client costs more than the engine's own token at thousands of
events a second. Closing an event stream before its end aborts its connection: so an engine learns of a cancel.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self

import orjson

from services.engines.base import EngineUnavailable
from services.http_stream.connection import EARLY_S, ConnectionPool, Response
from services.http_stream.sse import SseParser

EVENT_BYTES_MAX = 4 << 20  # one event, or one whole JSON answer
_IDLE_S_MAX = 1.0  # shorter than uvicorn's 5 s


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


class EventStream:
    """The events of one answer, as JSON objects, until `[DONE]` or its end. Iterate once.

    Raises EngineUnavailable and HttpStatusError from the iteration. `close` may be called at any time and
    from any task; the iteration then just ends.
    """

    def __init__(
        self, path: str, response: Response, kept: ConnectionPool | None, first_s: float, next_s: float
    ) -> None:
        self._path, self._response, self._kept, self._next_s = path, response, kept, next_s
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + first_s
        # One timer for all events: it is set anew only where it would come too early or too late.
        self._set_timer(self._due)
        self._parser = SseParser()
        self._events: deque[bytes] = deque()
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
            self._response.abort()
        self._response.wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self.closed:
            while self._events:
                payload = self._events.popleft()
                if payload == b"[DONE]":
                    self._ended = True
                    raise StopAsyncIteration
                event = _parse(self._path, payload)
                if not isinstance(event, dict):
                    raise EngineUnavailable(f"{self._path}: an event that is no object: {payload[:200]!r}")
                self._due = self._loop.time() + self._next_s
                if self._due < self._timer_s:  # after the first event, which may take longer than others
                    self._timer.cancel()
                    self._set_timer(self._due)
                return event
            if self._response.complete and not self._response.chunks:
                self._ended = True
                break
            await self._more()
        raise StopAsyncIteration

    def _late(self) -> bool:
        return self._loop.time() + EARLY_S >= self._due

    def _look(self) -> None:
        """Wake the iteration when it has waited for too long."""
        if self._late():
            self._response.wake()
        # A comment may wake it too, or it may be busy with the event before: there is always a timer.
        self._set_timer(max(self._due, self._loop.time() + 10 * EARLY_S))

    def _set_timer(self, at_s: float) -> None:
        self._timer_s = at_s  # uvloop's handle of a time that is now does not tell
        self._timer = self._loop.call_at(at_s, self._look)

    async def _more(self) -> None:
        """Wait for bytes and read the events that they complete."""
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
        self._events.extend(self._parser.feed_data(response.take()))
        if self._parser.unfinished_bytes > EVENT_BYTES_MAX:
            raise EngineUnavailable(f"{self._path}: an event of more than {EVENT_BYTES_MAX} bytes")


class EngineHttp:
    """The HTTP side of one engine server. Raises EngineUnavailable and HttpStatusError.

    `keep`: the server keeps a connection after an event stream, so the next one goes over it.
    """

    def __init__(self, host: str, port: int, key: str, connect_s: float = 2.0, *, keep: bool = False) -> None:
        self.port, self.keep = port, keep
        self._pool = ConnectionPool(host, port, connect_s_max=connect_s, idle_s_max=_IDLE_S_MAX)
        self._headers = f"Host: {host}:{port}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    def close(self) -> None:
        """End the connections that nobody uses."""
        self._pool.close()

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
        return EventStream(path, response, self._pool if self.keep else None, first_s, next_s)

    async def _call(self, method: str, path: str, body: object, timeout_s: float) -> bytes:
        response = await self._request(method, path, body)
        try:
            data = await _rest(response, path, timeout_s)
        finally:
            response.abort()
        if response.status != 200:
            raise HttpStatusError(response.status or 0, data)
        return data

    async def _request(self, method: str, path: str, body: object, *, keep: bool = False) -> Response:
        payload = b"" if body is None else orjson.dumps(body)
        end = "" if keep else "Connection: close\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}{end}Content-Length: {len(payload)}\r\n\r\n"
        response = Response()
        try:
            await self._pool.send(head.encode() + payload, response, kept=keep)
        except OSError as error:
            raise EngineUnavailable(f"cannot reach {self._pool.host}:{self.port}: {error or 'timeout'}") from error
        return response


async def _rest(response: Response, path: str, timeout_s: float) -> bytes:
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
