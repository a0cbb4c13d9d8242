"""Requests whose streamed answers go to a callback: for many streams at once, and times that are the socket's.

Bytes reach the caller's sink in the same call in which the event loop read them, so no queue or task switch stands
between. One process holds as many streams as it may open files.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.http_stream.connection import ConnectionPool, Response

Clock = Callable[[], float]
Sink = Callable[[bytes, float], bool]  # a piece of the body and when it came; False cuts the connection

BODY_BYTES_MAX = 1_000_000  # kept of answers that are no streams
_IDLE_S_MAX = 4.0  # shorter than uvicorn's 5 s


class ConnectionBroken(Exception):
    """The server was not reached or the connection broke. `str()` is a short label: "connection refused"."""


@dataclass(slots=True)
class StreamAnswer:
    """An answer's frame. `body` is filled for answers that did not go to the sink (errors, JSON)."""

    status: int
    headers: dict[str, str]
    head_s: float
    end_s: float
    body: bytes
    cut: bool  # the sink asked for the cut


class _SinkResponse(Response):
    """Hands an event stream's bytes to `sink`, keeps those of other answers, and wakes its reader only at the end."""

    def __init__(self, clock: Clock, sink: Sink) -> None:
        super().__init__()
        self._clock, self._sink = clock, sink
        self._streams = False
        self.headers: dict[str, str] = {}
        self.now_s = self.head_s = 0.0
        self.cut = False
        self.silent = True  # nothing of the answer has come

    def data_received(self, data: bytes) -> None:
        self.now_s = self._clock()
        self.silent = False
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.head_s = self.now_s
        self._streams = self.status == 200 and self.headers.get("content-type", "").startswith("text/event-stream")

    def on_body(self, body: bytes) -> None:
        if not self._streams:
            if self.unread + len(body) <= BODY_BYTES_MAX:
                super().on_body(body)
        elif not self.cut and not self._sink(body, self.now_s):
            self.cut = self.complete = True
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        framed = "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "")
        if self.status and exc is None and not framed and not self.complete:
            self.now_s = self._clock()
            self.complete = True  # a body without a length ends with its connection
        super().connection_lost(exc)

    def wake(self) -> None:
        if self.complete or self.failure is not None:
            super().wake()

    async def answer(self) -> StreamAnswer:
        """At the answer's end. Raises ConnectionBroken."""
        while not self.complete:
            if self.failure is not None:
                raise ConnectionBroken(self.failure)
            await self.changed()
        return StreamAnswer(self.status or 0, self.headers, self.head_s, self.now_s, self.take(), self.cut)


class StreamClient:
    """Requests to one server. `url` is the API's base, such as http://127.0.0.1:8000/v1."""

    def __init__(self, url: str, clock: Clock, connect_s_max: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http or https URL: {url}")
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        self._pool = ConnectionPool(parts.hostname, port, connect_s_max=connect_s_max, idle_s_max=_IDLE_S_MAX, tls=tls)
        self._host = f"{parts.hostname}:{port}"
        self._base = parts.path.rstrip("/")
        self._clock = clock
        self.reached = False  # whether any connection was ever made

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, sink: Sink) -> StreamAnswer:
        """Send one request and wait for its answer's end. Raises ConnectionBroken; cancelling cuts the connection.

        A kept connection that the server had already closed is replaced once: no byte of an answer came.
        """
        lines = [f"POST {self._base}{path} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{k}: {v}" for k, v in headers.items()]
        lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
        return await self._send("\r\n".join(lines).encode("latin-1") + body, sink)

    async def get(self, path: str) -> StreamAnswer:
        """GET a path of the server itself, not of its API's base. Raises ConnectionBroken."""
        request = f"GET {path} HTTP/1.1\r\nhost: {self._host}\r\n\r\n"
        return await self._send(request.encode("latin-1"), lambda _piece, _at: True)

    async def _send(self, request: bytes, sink: Sink, *, kept: bool = True) -> StreamAnswer:
        response = _SinkResponse(self._clock, sink)
        was_kept = await self._write(request, response, kept)
        try:
            answer = await response.answer()
        except ConnectionBroken:
            response.abort()
            if was_kept and response.silent:
                return await self._send(request, sink, kept=False)
            raise
        except asyncio.CancelledError:
            response.abort()
            raise
        self._pool.give(response)
        return answer

    async def _write(self, request: bytes, response: _SinkResponse, kept: bool) -> bool:
        try:
            was_kept = await self._pool.send(request, response, kept=kept)
        except TimeoutError as error:
            raise ConnectionBroken("connect timed out") from error
        except ConnectionRefusedError as error:
            raise ConnectionBroken("connection refused") from error
        except OSError as error:
            raise ConnectionBroken(f"cannot connect: {error.strerror or error}") from error
        self.reached = True
        return was_kept

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()
