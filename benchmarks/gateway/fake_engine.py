"""`python -m benchmarks.gateway.fake_engine PORT`: an engine that costs nothing, for measuring what is around it.

Streams `max_tokens` tokens, one every 20 ms, to any number of chats. Speaks OpenAI's chat completions (for LiteLLM and
for the direct measurement) and as much of llama.cpp's server as the llama.cpp engine uses.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import httptools
import orjson
import uvloop

TOKEN_S = 0.020
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client connection, one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by inheritance
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        answers: dict[bytes, bytes] = {
            b"/health": b'{"status":"ok"}',
            b"/slots": b"[]",
            b"/metrics": b"llamacpp:requests_deferred 0\n",
            b"/v1/models": b'{"object":"list","data":[{"id":"fake","object":"model"}]}',
        }
        if self._url in answers:
            self._answer(answers[self._url])
            return
        request = orjson.loads(self._body)
        count = int(request.get("n_predict") or request.get("max_tokens") or 64)
        openai = self._url == b"/v1/chat/completions"
        if not request.get("stream"):
            self._loop.call_later(count * TOKEN_S if count > 1 else 0, self._answer, _whole(count))
            return
        self._transport.write(STREAM_HEAD)
        self._start_s = self._loop.time()
        self._token(1, count, _openai_event if openai else _llamacpp_event)

    def _answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def _token(self, number: int, count: int, event: Callable[[int, int], bytes]) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(_chunk(event(number, count)))
        if number > count:
            self._transport.write(b"0\r\n\r\n")
            return
        due_s = self._start_s + number * TOKEN_S if number < count else self._loop.time()
        self._timer = self._loop.call_at(due_s, self._token, number + 1, count, event)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _openai_event(number: int, count: int) -> bytes:
    if number > count:
        return (
            b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"fake",'
            b'"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
        )
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"fake",'
        b'"choices":[{"index":0,"delta":{"content":" t%d"},"finish_reason":null}]}\n\n' % number
    )


def _llamacpp_event(number: int, count: int) -> bytes:
    if number > count:
        return (
            b'data: {"content":"","tokens_predicted":%d,"tokens_evaluated":40,"stop":true,"stop_type":"limit",'
            b'"timings":{"cache_n":0}}\n\n' % count
        )
    return b'data: {"content":" t%d","tokens_predicted":%d,"tokens_evaluated":40,"stop":false}\n\n' % (number, number)


def _whole(count: int) -> bytes:
    text = "".join(f" t{number + 1}" for number in range(count))
    return orjson.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "fake",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 40, "completion_tokens": count, "total_tokens": 40 + count},
        }
    )


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=2048)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
