"""The same lean client for every stack: when did each token come."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import orjson

from benchmarks.gateway.stacks import Stack
from services.http_stream.client import StreamClient

TOKENS = 64
NEEDLE = b'"content":" t'


@dataclass(slots=True)
class Seen:
    """One chat. Times in seconds since it was sent."""

    first_s: float = 0.0
    times_s: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    end_s: float = 0.0
    status: int = 0

    @property
    def whole(self) -> bool:
        """Every token, once, in order."""
        return self.numbers == list(range(1, TOKENS + 1))


class Client:
    """Chats with one stack over kept-alive connections."""

    def __init__(self, stack: Stack) -> None:
        self._http = StreamClient(stack.url, time.perf_counter)
        self._headers = {"authorization": f"Bearer {stack.key}"}
        self._model = stack.model

    async def stream(self, tokens: int = TOKENS) -> Seen:
        """One streamed chat."""
        seen = Seen()
        rest = b""
        begin = time.perf_counter()

        def sink(piece: bytes, at: float) -> bool:
            nonlocal rest
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                where = event.find(NEEDLE)
                if where < 0:
                    continue
                start = where + len(NEEDLE)
                # A piece may hold several tokens: " t4 t5".
                words = event[start : event.index(b'"', start)].replace(b" t", b" ").split()
                for word in words:
                    seen.numbers.append(int(word))
                    seen.times_s.append(at - begin)
            return True

        answer = await self._http.post("/chat/completions", self._headers, self._body(tokens, True), sink)
        seen.status, seen.end_s = answer.status, time.perf_counter() - begin
        seen.first_s = seen.times_s[0] if seen.times_s else seen.end_s
        return seen

    async def short(self) -> int:
        """One chat of a single token, not streamed. Returns the status."""
        answer = await self._http.post("/chat/completions", self._headers, self._body(1, False), lambda *_: True)
        return answer.status

    def _body(self, tokens: int, stream: bool) -> bytes:
        return orjson.dumps(
            {
                "model": self._model,
                "max_tokens": tokens,
                "stream": stream,
                "messages": [{"role": "user", "content": "My blender does not start. What can I do?"}],
            }
        )


async def at_once(client: Client, clients: int, chats: int, tokens: int = TOKENS) -> list[Seen]:
    """`chats` streams, `clients` at a time, each client's next right after its last."""
    left = iter(range(chats))

    async def one() -> list[Seen]:
        return [await client.stream(tokens) for _ in left]

    return [seen for part in await asyncio.gather(*(one() for _ in range(clients))) for seen in part]


async def spread(client: Client, streams: int) -> list[Seen]:
    """`streams` chats that begin evenly over one chat's length, each followed by two more: steadily that many."""
    length_s = TOKENS * 0.02

    async def one(number: int) -> list[Seen]:
        await asyncio.sleep(length_s * number / streams)
        return [await client.stream() for _ in range(3)]

    return [seen for part in await asyncio.gather(*(one(n) for n in range(streams))) for seen in part]


async def requests_per_s(client: Client, clients: int, seconds: float) -> float:
    """Short chats a second that `clients` closed loops get through."""
    until = time.perf_counter() + seconds
    done = 0

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < until:
            if await client.short() == 200:
                done += 1

    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return done / (time.perf_counter() - begin)
