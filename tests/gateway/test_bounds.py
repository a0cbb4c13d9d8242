"""Slow and oversized requests, byte by byte over a raw socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from .conftest import ACME, Host, HostFactory
from .driver import Script, until

LIMIT_S = 0.5


@pytest.fixture
async def host(hosts: HostFactory) -> AsyncIterator[Host]:
    async with hosts(request_read_s_max=LIMIT_S) as made:
        yield made


@asynccontextmanager
async def connected(host: Host) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()
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
        answer = asyncio.create_task(reader.read())
        began = time.monotonic()
        while not answer.done() and time.monotonic() - began < 5:
            writer.write(b" ")
            await asyncio.sleep(0.05)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < LIMIT_S + 1


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
        for _ in range(3):
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(LIMIT_S / 2)


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
