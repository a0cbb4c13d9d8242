"""Slow and oversized requests, byte by byte over a raw socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.call import Call, Message, Receive, Scope, Send
from gateway.protocol import SLACK_S

from .conftest import ACME, Host, HostFactory
from .driver import Script, until

LIMIT_S = 0.5
BODY_BYTES_MAX = 1_000_000


@pytest.fixture
async def host(hosts: HostFactory) -> AsyncIterator[Host]:
    async with hosts(request_read_s_max=LIMIT_S, body_bytes_max=BODY_BYTES_MAX) as made:
        yield made


@asynccontextmanager
async def connected(host: Host) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the host may have reset what it ended
            await writer.wait_closed()


def head(length: int, key: str = ACME) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n" % (key.encode(), length)
    )


async def test_a_client_that_sends_headers_and_stops(host: Host) -> None:
    async with connected(host) as (reader, writer):
        writer.write(head(100))
        began = time.monotonic()
        answer = await asyncio.wait_for(reader.read(), 5)
        assert LIMIT_S * 0.9 < time.monotonic() - began < LIMIT_S + 1
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer


async def test_a_client_that_drips_its_body(host: Host) -> None:
    async with connected(host) as (reader, writer):
        writer.write(head(1000))
        answer = asyncio.create_task(everything(reader))
        began = time.monotonic()
        while not answer.done() and time.monotonic() - began < 5:
            writer.write(b" ")
            await asyncio.sleep(0.05)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < LIMIT_S + 1


FORWARDED = [
    (f"/widget/v1/bhw-{'0' * 32}/messages", 16_384),
    ("/dashboard/playground/chats", BODY_BYTES_MAX),
    ("/admin/v1/tenants", BODY_BYTES_MAX),
]


def chunked_head(path: str) -> bytes:
    """As a page of our own sends it."""
    return (
        b"POST %s HTTP/1.1\r\nhost: x\r\nsec-fetch-site: same-origin\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n" % path.encode()
    )


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size)


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Until the connection ends. It ends with a reset where this client wrote on while it was closed."""
    read = b""
    with suppress(ConnectionResetError):
        while piece := await reader.read(2**16):
            read += piece
    return read


@pytest.mark.parametrize(("path", "bytes_max"), FORWARDED)
async def test_an_endless_body_of_a_page(host: Host, path: str, bytes_max: int) -> None:
    async with connected(host) as (reader, writer):
        writer.write(chunked_head(path))
        answer = asyncio.create_task(reader.readuntil(b"}}"))
        sent = 0
        while not answer.done() and sent < 100 * bytes_max:
            writer.write(chunk(4096))
            await writer.drain()
            sent += 4096
            await asyncio.sleep(0)
        assert (await answer).startswith(b"HTTP/1.1 413 ")
        assert b'"code":"request_too_large"' in await answer
        assert b"%d bytes" % bytes_max in await answer
        assert (await answer).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(("path", "bytes_max"), FORWARDED)
async def test_a_body_of_a_page_that_says_it_is_too_large(host: Host, path: str, bytes_max: int) -> None:
    async with connected(host) as (reader, writer):
        writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path.encode(), bytes_max + 1))
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), 10)
        assert answer.startswith(b"HTTP/1.1 413 "), "not the 408 that comes when the body does not"


@pytest.mark.parametrize("path", ["/dashboard/login", *(path for path, _ in FORWARDED)])
@pytest.mark.parametrize("drips", [True, False])
async def test_a_body_of_a_page_that_drips_or_stops(host: Host, path: str, drips: bool) -> None:
    async with connected(host) as (reader, writer):
        writer.write(chunked_head(path) + chunk(1))
        answer = asyncio.create_task(everything(reader))
        began = time.monotonic()
        while not answer.done() and time.monotonic() - began < 5:
            if drips:
                writer.write(chunk(1))
            await asyncio.sleep(0.05)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in await answer
        assert (await answer).count(b"HTTP/1.1") == 1
        assert time.monotonic() - began > LIMIT_S * 0.9


@pytest.mark.parametrize("path", [path for path, _ in FORWARDED])
async def test_a_client_that_leaves_in_the_body_of_a_page(hosts: HostFactory, path: str) -> None:
    async with hosts(request_read_s_max=60.0) as host:
        async with connected(host) as (_, writer):
            writer.write(chunked_head(path) + chunk(10))
            await until(lambda: host.state.open_requests)
        await until(lambda: not host.state.open_requests)
        route = "admin" if "admin" in path else "pages"
        assert host.state.metrics.requests.labels(route, "0", "client_gone")._value.get() == 1


async def forwarded(app: Callable[[Scope, Receive, Send], Awaitable[None]], pieces: list[bytes]) -> list[Message]:
    """What a client gets of an application that may read 100 bytes in 0.1 s. It leaves 0.3 s after its body's end."""
    sent: list[Message] = []
    coming = [
        {"type": "http.request", "body": piece, "more_body": place < len(pieces)}
        for place, piece in enumerate(pieces, 1)
    ]

    async def receive() -> Message:
        if coming:
            return coming.pop(0)
        await asyncio.sleep(0.3)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    call = Call({"type": "http", "method": "POST", "path": "/x", "headers": []}, receive, send)
    await call.forward(app, "pages", bytes_max=100, read_s_max=0.1)
    return sent


async def test_only_the_body_is_bounded_not_what_follows() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        received = [await receive(), await receive()]
        assert [message["body"] for message in received] == [b"a", b"b"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        began = time.monotonic()
        assert (await receive())["type"] == "http.disconnect"
        assert time.monotonic() - began > 0.2
        await send({"type": "http.response.body", "body": b"z", "more_body": False})

    assert [message["type"] for message in await forwarded(stream, [b"a", b"b"])] == [
        "http.response.start",
        "http.response.body",
    ]


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            received = await receive()
        assert received["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"

    assert [message["type"] for message in await forwarded(early, [b"x" * 50] * 5)] == ["http.response.start"]


async def test_a_body_that_outlasts_its_answer_ends_the_connection(hosts: HostFactory) -> None:
    """The answer comes after the time that a whole head had."""
    limit_s = 3.0
    async with hosts(request_read_s_max=limit_s) as host, connected(host) as (reader, writer):
        await asyncio.sleep(limit_s + SLACK_S - 1.0)
        writer.write(chunked_head("/widget/v1/x/messages"))
        await asyncio.sleep(1.2)
        writer.write(chunk(20_000))
        answer = asyncio.create_task(everything(reader))
        began = time.monotonic()
        while not answer.done() and time.monotonic() - began < 20:
            writer.write(chunk(1))
            await asyncio.sleep(0.05)
        assert answer.done(), "the connection was held"
        assert (await answer).startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 408 "))


async def test_a_client_that_leaves_in_its_body_is_no_error_of_the_hosts(host: Host) -> None:
    async with connected(host) as (_, writer):
        writer.write(head(100) + b"{")
        await until(lambda: host.state.open_requests)
    await until(lambda: not host.state.open_requests)
    counted = [line for line in (await host.http.get(f"{host.url}/metrics")).text.splitlines() if "client_gone" in line]
    assert counted, "it is counted as what it is"
    assert not host.state.metrics.requests.labels("/v1/chat/completions", "500", "internal_error")._value.get()


async def test_a_client_that_stops_in_its_head(host: Host) -> None:
    async with connected(host) as (reader, writer):
        writer.write(head(100)[:40])
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer


async def test_a_client_that_says_nothing(host: Host) -> None:
    async with connected(host) as (reader, _):
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_an_endless_head(host: Host) -> None:
    async with connected(host) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        for number in range(200):
            writer.write(b"x-%d: %s\r\n" % (number, b"y" * 1000))
        began = time.monotonic()
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
        await asyncio.wait_for(reader.read(), 5)
        assert time.monotonic() - began < 3
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"headers_too_large" in answer


@pytest.mark.parametrize("requests_before", [0, 1])
async def test_a_large_head_in_one_piece(host: Host, requests_before: int) -> None:
    async with connected(host) as (reader, writer):
        for _ in range(requests_before):
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b'"ok"}')
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nx-large: " + b"y" * 120_000 + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_an_unknown_key_is_told_before_its_body_came(host: Host) -> None:
    async with connected(host) as (reader, writer):
        writer.write(head(1_000_000, "nonsense"))
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 0.4)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert await asyncio.wait_for(reader.read(), 5) != b""  # and the connection ends, though the body never came


async def test_no_http_at_all(host: Host) -> None:
    async with connected(host) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")


async def test_a_connection_serves_many_requests(host: Host) -> None:
    async with connected(host) as (reader, writer):
        for _ in range(8):
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(LIMIT_S / 5)


async def test_a_client_that_takes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.protocol.STUCK_S_MAX", 0.3)
    host.driver.script_for = lambda _: Script(pieces=["x" * 100_000] * 200)
    body = b'{"model": "support", "stream": true, "messages": [{"role": "user", "content": "Go"}]}'
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", int(host.url.rpartition(":")[2])))
    await loop.sock_sendall(sock, head(len(body)) + body)
    await until(lambda: host.driver.claims)
    await until(lambda: host.state.readers)
    await until(lambda: not host.state.readers, 10)
    sock.close()
