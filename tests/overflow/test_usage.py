"""What a provider's answer costs: by the provider's own count, and by a near one where the client left early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec

import pytest

from services.config.schema import OverflowConfig
from services.contracts.chats import TokenPrice
from services.engines.base import Piece
from services.engines.overflow import OverflowEngine
from tests.overflow.test_provider import REQUEST

pytestmark = pytest.mark.skipif(find_spec("litellm") is None, reason="LiteLLM is not installed: make dev")

CHUNK = "The parcel left our warehouse in Leeds on Monday and it should reach you by Thursday. "
CHUNK_TOKENS = 18  # as cl100k counts it
CHUNKS = 24


@asynccontextmanager
async def _engine() -> AsyncIterator[OverflowEngine]:
    """A provider with a long prompt of its own, that sends a sentence a chunk."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for number in range(CHUNKS + 1):
            last = number == CHUNKS
            delta = {} if last else {"content": CHUNK}
            writer.write(_event([{"index": 0, "delta": delta, "finish_reason": "stop" if last else None}]))
        writer.write(_event([], {"prompt_tokens": 700, "completion_tokens": 480, "total_tokens": 1180}))
        writer.write(b"data: [DONE]\n\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        engine = OverflowEngine("second", OverflowConfig(model="openai/x", api_base=url, usd_per_million_tokens=1.0))
        await engine.start(lambda _: None)
        yield engine


def _event(choices: list[dict[str, object]], usage: dict[str, int] | None = None) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": choices}
    return b"data: " + json.dumps({**body, "usage": usage}).encode() + b"\n\n"


async def test_the_providers_own_usage_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    async with _engine() as engine:
        pieces = [piece async for piece in engine.stream(REQUEST)]
    assert (pieces[-1].prompt_tokens, pieces[-1].completion_tokens) == (700, 480)


async def test_a_client_that_leaves_pays_for_what_came_and_not_for_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    pieces: list[Piece] = []
    async with _engine() as engine, aclosing(engine.stream(REQUEST)) as stream:  # type: ignore[type-var]
        async for piece in stream:
            pieces.append(piece)
            if sum(bool(piece.text) for piece in pieces) == 3:
                break
    assert abs(sum(piece.tokens for piece in pieces) - 3 * CHUNK_TOKENS) <= 3
    assert pieces[0].prompt_tokens is not None


def test_prompt_and_completion_have_their_own_prices() -> None:
    one = OverflowConfig(model="a/b", usd_per_million_tokens=2.0)
    assert one.price == TokenPrice(2.0, 2.0)
    two = OverflowConfig(model="a/b", usd_per_million_tokens=2.0, usd_per_million_completion_tokens=8.0)
    assert two.price == TokenPrice(2.0, 8.0)
    assert two.price.microusd(700, 480) == 700 * 2 + 480 * 8
