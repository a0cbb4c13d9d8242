"""The engines' HTTP client against servers that answer well, badly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from services.engines.base import EngineUnavailable
from services.engines.http import EVENT_BYTES_MAX, EngineHttp, HttpStatusError
from tests.gateway.driver import until

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@asynccontextmanager
async def _server(answer: Answer) -> AsyncIterator[EngineHttp]:
    """A server that reads a request's head and body and then does as `answer` says."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Authorization: Bearer key" in head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        with suppress(ConnectionError):
            await answer(writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    handlers: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(
        lambda reader, writer: handlers.append(asyncio.create_task(handle(reader, writer))), "127.0.0.1", 0
    )
    async with server:
        http = EngineHttp("127.0.0.1", server.sockets[0].getsockname()[1], "key")
        yield http
        http.close()
        await asyncio.gather(*handlers)


async def _read(http: EngineHttp, next_s: float = 1.0, first_s: float = 1.0) -> list[dict[str, object]]:
    stream = await http.open_events("/x", {"a": 1}, first_s, next_s)
    try:
        return [event async for event in stream]
    finally:
        stream.close()


async def test_events_split_anywhere_arrive_whole() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        body = b': ping\n\ndata: {"n": 1}\r\n\r\ndata: {"n": 2, "s": "\xe6\x97\xa5"}\n\nretry: 5\ndata: [DONE]\n\n'
        writer.write(HEAD)
        for at in range(len(body)):
            writer.write(_chunk(body[at : at + 1]))
            await writer.drain()
        writer.write(_chunk(b'data: {"n": 3}\n\n') + b"0\r\n\r\n")

    async with _server(answer) as http:
        assert await _read(http) == [{"n": 1}, {"n": 2, "s": "日"}]


async def test_thousands_of_events_in_one_write_arrive_in_order() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = b"".join(b'data: {"n": %d}\n\n' % n for n in range(100_000))
        writer.write(HEAD + _chunk(lines) + b"0\r\n\r\n")
        await writer.drain()

    async with _server(answer) as http:
        assert [event["n"] for event in await _read(http)] == list(range(100_000))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"data: {nonsense\n\n", "not JSON"),
        (b"data: [1]\n\n", "no object"),
        (b"x" * (EVENT_BYTES_MAX + 10), "an event of more than"),
    ],
)
async def test_nonsense_in_a_stream_is_unavailable(body: bytes, words: str) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + _chunk(body) + b"0\r\n\r\n")

    async with _server(answer) as http:
        with pytest.raises(EngineUnavailable, match=words):
            await _read(http)


async def test_no_http_is_unavailable() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")

    async with _server(answer) as http:
        with pytest.raises(EngineUnavailable, match="not HTTP"):
            await _read(http)
        with pytest.raises(EngineUnavailable, match="not HTTP"):
            await http.get("/x", 1.0)


async def test_connection_lost_in_a_stream_is_unavailable() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + _chunk(b'data: {"n": 1}\n\n'))

    async with _server(answer) as http:
        with pytest.raises(EngineUnavailable, match="connection lost"):
            await _read(http)


async def test_silence_between_events_is_unavailable_though_pings_go_on() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + _chunk(b'data: {"n": 1}\n\n'))
        for _ in range(20):
            writer.write(_chunk(b": ping\n\n"))
            await asyncio.sleep(0.05)

    async with _server(answer) as http:
        with pytest.raises(EngineUnavailable, match="hangs"):
            await _read(http, next_s=0.3)


async def test_silence_after_the_first_event_is_not_waited_for_as_long_as_that_one_may_take() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + _chunk(b'data: {"n": 1}\n\n'))
        await asyncio.sleep(5.0)

    async with _server(answer) as http, asyncio.timeout(3.0):
        with pytest.raises(EngineUnavailable, match="hangs"):
            await _read(http, first_s=60.0, next_s=0.3)


async def test_status_carries_the_servers_message() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        body = b'{"error": {"message": "too long", "code": 400}}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with _server(answer) as http:
        with pytest.raises(HttpStatusError) as caught:
            await _read(http)
        assert (caught.value.status, caught.value.message) == (400, "too long")
        with pytest.raises(HttpStatusError, match="400"):
            await http.post_json("/x", {}, 1.0)


async def test_close_ends_the_iteration() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + _chunk(b'data: {"n": 1}\n\n'))
        await writer.drain()
        for _ in range(10):
            writer.write(_chunk(b": ping\n\n"))
            await asyncio.sleep(0.05)

    async with _server(answer) as http:
        stream = await http.open_events("/x", {}, 1.0, 30.0)
        assert (await anext(stream))["n"] == 1
        asyncio.get_running_loop().call_later(0.05, stream.close)
        assert [event async for event in stream] == []


async def test_nobody_listening_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match="cannot reach"):
        await EngineHttp("127.0.0.1", 9, "key").get("/health", 1.0)


class _Counting:
    """A server that answers each request on a connection with two events, and counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.answered = 0
        self.ended = asyncio.Event()
        self.tail = b"data: [DONE]\n\n"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                writer.write(HEAD + _chunk(b'data: {"n": 1}\n\ndata: {"n": 2}\n\n' + self.tail))
                await asyncio.sleep(0.01)
                writer.write(b"0\r\n\r\n")
                self.answered += 1
        self.ended.set()
        self.open -= 1
        writer.close()


@asynccontextmanager
async def _counting() -> AsyncIterator[tuple[_Counting, EngineHttp]]:
    counting = _Counting()
    async with await asyncio.start_server(counting.handle, "127.0.0.1", 0) as server:
        http = EngineHttp("127.0.0.1", server.sockets[0].getsockname()[1], "key", keep=True)
        yield counting, http
        http.close()
        await until(lambda: not counting.open)


@pytest.mark.parametrize("tail", [b"data: [DONE]\n\n", b""])
async def test_the_next_answer_comes_over_the_same_connection(tail: bytes) -> None:
    async with _counting() as (server, http):
        server.tail = tail
        for answered in (1, 2, 3):
            assert [event["n"] for event in await _read(http)] == [1, 2]
            await until(lambda answered=answered: server.answered == answered)  # type: ignore[misc]
            await asyncio.sleep(0.01)  # the answer's end, too, comes over loopback
        assert server.connections == 1


async def test_a_connection_whose_answer_was_given_up_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine goes on with the answer until it hears of that."""
    for name in ("engines.http._IDLE_S_MAX", "http_stream.connection.TAIL_S_MAX"):
        monkeypatch.setattr(f"services.{name}", 60.0)
    async with _counting() as (server, http):
        stream = await http.open_events("/x", {}, 1.0, 1.0)
        assert (await anext(stream))["n"] == 1
        stream.close()
        await asyncio.wait_for(server.ended.wait(), 2)
        assert [event["n"] for event in await _read(http)] == [1, 2]
        assert server.connections == 2


async def test_a_kept_connection_is_ended_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server does it, perhaps as the next request is on its way."""
    monkeypatch.setattr("services.engines.http._IDLE_S_MAX", 0.1)
    async with _counting() as (server, http):
        await _read(http)
        await asyncio.wait_for(server.ended.wait(), 2)
        assert [event["n"] for event in await _read(http)] == [1, 2]
        assert server.connections == 2
