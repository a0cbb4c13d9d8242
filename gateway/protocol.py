"""uvicorn's HTTP protocol with bounds it does not have: on the time and the size of a request's head.

A connection must bring a whole head within `head_s_max`, from its opening or from the last request's first byte on, and
the head must be below HEAD_BYTES_MAX. A body that is still coming `head_s_max` after an answer was given closes the
connection. Bodies that no answer waits for are the application's to bound. A client that takes nothing of its answer
for STUCK_S_MAX is cut off.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 64 * 1024
PIECE_BYTES = 16 * 1024  # a head is measured by what the parser was fed, so it may pass the bound by so much
STUCK_S_MAX = 60.0
SLACK_S = 1.0  # the application's own answer goes first

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_BODY = b'{"error":{"message":"%s","type":"invalid_request_error","param":null,"code":"%s"}}'


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    head_s_max = 10.0

    @classmethod
    def bounded(cls, head_s_max: float) -> type[BoundedProtocol]:
        """The protocol with this bound."""
        return type("BoundedProtocol", (cls,), {"head_s_max": head_s_max})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._stuck: asyncio.TimerHandle | None = None
        self._deaf = False  # answered and half closed: what still comes is thrown away

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unstick()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE_BYTES):
            if self._deaf or (start and self.transport.is_closing()):
                return
            piece = data[start : start + PIECE_BYTES]
            if self._in_head:
                self._head_bytes += len(piece)
                if self._head_bytes > HEAD_BYTES_MAX and b"\r\n\r\n" not in piece:
                    self._cut(_TOO_LARGE, b"The request headers are too large.", b"headers_too_large")
                    return
            super().data_received(piece)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._arm()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body:
            self._arm()  # where the head was late, its timer has gone off before there was an answer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unstick()
        self._stuck = self.loop.call_later(STUCK_S_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        self._unstick()
        super().resume_writing()

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s_max + SLACK_S, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes:
            self._cut(_TOO_SLOW, b"The request headers did not arrive in time.", b"request_timeout")
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _cut(self, status: bytes, message: bytes, code: bytes) -> None:
        body = _BODY % (message, code)
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(status + head + body)
        # Closed at once, with bytes unread, the kernel resets the connection and the client never sees the answer.
        self._deaf = True
        self.transport.write_eof()
        self._disarm()
        self._timer = self.loop.call_later(SLACK_S, self.transport.close)
