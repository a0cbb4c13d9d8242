"""A lean HTTP/1.1 client for streams: httptools on bare asyncio protocols, with kept-alive connections.

Bytes reach the caller's sink in the same call in which the event loop read them, so their time is the
socket's and no queue or task switch stands between. One process holds as many streams as it may open files.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

Clock = Callable[[], float]
Sink = Callable[[bytes, float], bool]  # a piece of the body and when it came; False cuts the connection

BODY_BYTES_MAX = 1_048_576  # of answers that are no streams


class LinkError(Exception):
    """The server was not reached or the connection broke. `str()` is a short label: "connection refused"."""


@dataclass(slots=True)
class StreamAnswer:
    """An answer's frame. `body` is filled for answers that did not go to the sink (errors, JSON)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    head_s: float = 0.0
    end_s: float = 0.0
    body: bytes = b""
    cut: bool = False  # the sink asked for the cut


class _Link(asyncio.Protocol):
    """One connection, one exchange at a time."""

    transport: asyncio.Transport

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.closed = False
        self.keep = False
        self.silent = True  # nothing of the present answer has come
        self._done: asyncio.Future[StreamAnswer] | None = None

    def exchange(self, request: bytes, sink: Sink) -> asyncio.Future[StreamAnswer]:
        self._parser = httptools.HttpResponseParser(self)
        self._answer = StreamAnswer()
        self._sink = sink
        self.silent = True
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._now = self._clock()
        self.silent = False
        if self._done is None or self._done.done():
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("broken HTTP answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.head_s = self._now
        kind = self._answer.headers.get("content-type", "")
        self._streams = self._answer.status == 200 and kind.startswith("text/event-stream")

    def on_body(self, body: bytes) -> None:
        if not self._streams:
            if len(self._answer.body) < BODY_BYTES_MAX:
                self._answer.body += body
        elif not self._answer.cut and not self._sink(body, self._now):
            self._answer.cut = True
            self._finish()
            self.abort()

    def on_message_complete(self) -> None:
        self.keep = bool(self._parser.should_keep_alive()) and not self._answer.cut
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._done is None or self._done.done():
            return
        headers = self._answer.headers
        framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "")
        if self._answer.status and exc is None and not framed:
            self._now = self._clock()
            self._finish()  # a body without a length ends with its connection
        else:
            self._fail("connection closed early" if exc is None else "connection reset")

    def abort(self) -> None:
        self.closed = True
        self.transport.abort()

    def _finish(self) -> None:
        self._answer.end_s = self._now
        if self._done is not None and not self._done.done():
            self._done.set_result(self._answer)

    def _fail(self, label: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(LinkError(label))
        self.abort()


class Http:
    """Connections to one server. `url` is the API's base, such as http://127.0.0.1:8000/v1."""

    def __init__(self, url: str, clock: Clock, connect_s_max: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url}")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        self._clock = clock
        self._connect_s_max = connect_s_max
        self._idle: deque[_Link] = deque()
        self.reached = False  # whether any connection was ever made

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, sink: Sink) -> StreamAnswer:
        """Send one request and wait for its answer's end. Raises LinkError; cancelling cuts the connection.

        A kept connection that the server had already closed is replaced once: no byte of an answer came.
        """
        lines = [f"POST {self._base}{path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{k}: {v}" for k, v in headers.items()]
        lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
        return await self._send("\r\n".join(lines).encode("latin-1") + body, sink)

    async def get(self, path: str) -> StreamAnswer:
        """GET a path of the server itself, not of its API's base. Raises LinkError."""
        request = f"GET {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n\r\n"
        return await self._send(request.encode("latin-1"), _nothing)

    async def _send(self, request: bytes, sink: Sink) -> StreamAnswer:
        link = self._take_idle()
        if link is not None:
            try:
                return await self._exchange(link, request, sink)
            except LinkError:
                if not link.silent:
                    raise
        return await self._exchange(await self._connect(), request, sink)

    async def _exchange(self, link: _Link, request: bytes, sink: Sink) -> StreamAnswer:
        try:
            answer = await link.exchange(request, sink)
        except BaseException:
            link.abort()
            raise
        if link.keep and not link.closed:
            self._idle.append(link)
        else:
            link.abort()
        return answer

    def _take_idle(self) -> _Link | None:
        while self._idle:
            link = self._idle.pop()
            if not link.closed:
                return link
        return None

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s_max):
                _, link = await loop.create_connection(
                    lambda: _Link(self._clock), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise LinkError("connect timed out") from error
        except ConnectionRefusedError as error:
            raise LinkError("connection refused") from error
        except OSError as error:
            raise LinkError(f"cannot connect: {error.strerror or error}") from error
        self.reached = True
        return link

    def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop().abort()


def _nothing(_piece: bytes, _at: float) -> bool:
    return True
