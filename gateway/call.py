"""One HTTP exchange, as handlers see it: pure ASGI with just enough comfort."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from starlette.requests import ClientDisconnect

from gateway.outcomes import OUTCOME_HEADER, Code, Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
Body = TypeVar("Body", bytes, bytearray)

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
JSON = (b"content-type", b"application/json")


class ClientGone(Exception):
    """The client closed the connection."""


class Call:
    """A request and its answer. `status` is 0 until the answer starts."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began = perf_counter()
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        given = self.header(b"x-request-id")
        self.request_id = given if given and _SANE_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        self.always: list[Header] = [(b"x-request-id", self.request_id.encode())]  # of every answer, whoever gives it
        self.status = 0
        self.overhead_s = 0.0  # until the chat waited
        self.limit_headers: list[Header] = []
        self.label = "ok"  # the outcome's name in metrics and logs
        self.route = "other"
        self.tenant: str | None = None
        self.chat: str | None = None
        self.error_body: Callable[[Refused], bytes] = Refused.body  # as the route's API has it

    def header(self, name: bytes) -> str | None:
        """A header's value; None when absent or empty."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value else None

    def query(self, name: str) -> str | None:
        """The last value of one query parameter."""
        pairs = parse_qsl(self.scope["query_string"].decode("latin-1"))
        return next((value for key, value in reversed(pairs) if key == name), None)

    @property
    def authorization(self) -> str | None:
        """The client's key as `Authorization` has it. Anthropic's clients send it as x-api-key."""
        key = self.header(b"x-api-key")
        return self.header(b"authorization") or (f"Bearer {key}" if key else None)

    @property
    def elapsed_s(self) -> float:
        """Since the request's head was read."""
        return perf_counter() - self.began

    async def body(self, bytes_max: int, read_s_max: float) -> bytes:
        """The whole body. Raises Refused when it is too large, too slow or compressed, ClientGone."""
        self._check_head(bytes_max)
        first = await self._receive_within(read_s_max)
        if not first.get("more_body", False):
            body: bytes = first["body"]
            return self._checked(body, bytes_max)
        parts = bytearray(first["body"])
        while True:
            message = await self._receive_within(read_s_max - self.elapsed_s)
            parts += message["body"]
            self._checked(parts, bytes_max)
            if not message.get("more_body", False):
                return bytes(parts)

    def _check_head(self, bytes_max: int) -> None:
        encoding = self.header(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            raise Refused(
                Code.CONTENT_TYPE, f"Content-Encoding {encoding[:40]!r} is not supported. Send the body uncompressed."
            )
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > bytes_max:
            raise _too_large(bytes_max)

    async def _receive_within(self, limit_s: float) -> Message:
        try:
            async with asyncio.timeout(max(0.0, limit_s)):
                message = await self._receive()
        except TimeoutError:
            raise Refused(
                Code.READ_TIMEOUT, "The request body did not arrive in time.", headers=((b"connection", b"close"),)
            ) from None
        if message["type"] != "http.request":
            raise ClientGone
        return message

    @staticmethod
    def _checked(body: Body, bytes_max: int) -> Body:
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body

    async def gone(self) -> None:
        """Returns when the client has closed the connection. The body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send status and headers."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*self.always, *headers]})

    async def send(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece of the body. gateway.protocol ends connections whose client takes nothing for long."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def respond(self, status: int, body: bytes, headers: Iterable[Header] = (JSON,)) -> None:
        """A whole answer."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.send(body, more=False)

    async def respond_json(self, value: object, status: int = 200, headers: Iterable[Header] = ()) -> None:
        await self.respond(status, orjson.dumps(value), [JSON, *headers])

    async def forward(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        route: str,
        *,
        bytes_max: int,
        read_s_max: float,
    ) -> None:
        """Let another ASGI application answer. `route` is its name in metrics and logs.

        Raises Refused when the body is too large, too slow or compressed, ClientGone; unless the answer has started.
        """
        self.route = route
        self._check_head(bytes_max)
        body = _Bounded(self, bytes_max, read_s_max)
        kept = [(name, value) for name, value in self.scope["headers"] if name != b"x-request-id"]
        scope = {**self.scope, "headers": [*kept, (b"x-request-id", self.request_id.encode())]}

        async def send(message: Message) -> None:
            if body.broken is not None and not self.status:
                return  # what the application says to a body that it did not get
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = message["headers"]
                self.label = _outcome(self.status, headers)
                message["headers"] = [*self.always, *(pair for pair in headers if pair[0] != OUTCOME_HEADER)]
            await self._send(message)

        with contextlib.suppress(ClientDisconnect):
            await app(scope, body.receive, send)
        if body.broken is not None and not self.status:
            raise body.broken

    async def refuse(self, refused: Refused) -> None:
        """The error as a whole answer."""
        self.label = refused.counted_as.value
        chat = [(b"x-bunkhouse-chat", self.chat.encode())] if self.chat else []
        await self.respond(refused.row.status, self.error_body(refused), [JSON, *chat, *refused.headers()])


class _Bounded:
    """A request as another application receives it. A body that breaks its bounds looks like a client that left."""

    def __init__(self, call: Call, bytes_max: int, read_s_max: float) -> None:
        self._call = call
        self._bytes_max = bytes_max
        self._bytes_left = bytes_max
        self._read_s_max = read_s_max
        self._whole = False
        self.broken: Refused | ClientGone | None = None  # why the body did not come to its end

    async def receive(self) -> Message:
        """The next piece of the body; after the last, as long as it takes, that the client left."""
        if self.broken is not None:
            return {"type": "http.disconnect"}
        if self._whole:
            return await self._call._receive()
        try:
            message = await self._call._receive_within(self._read_s_max - self._call.elapsed_s)
            self._bytes_left -= len(message["body"])
            if self._bytes_left < 0:
                raise _too_large(self._bytes_max)
        except (Refused, ClientGone) as error:
            self.broken = error
            return {"type": "http.disconnect"}
        self._whole = not message.get("more_body", False)
        return message


def _too_large(bytes_max: int) -> Refused:
    return Refused(Code.BODY_TOO_LARGE, f"The request body is larger than {bytes_max} bytes.")


def _outcome(status: int, headers: Iterable[Header]) -> str:
    """The name in metrics and logs of what an inner application answered."""
    named = next((value.decode("latin-1") for name, value in headers if name == OUTCOME_HEADER), None)
    return named or ("ok" if status < 400 else f"http_{status}")
