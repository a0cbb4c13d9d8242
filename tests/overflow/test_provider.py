"""A provider's refusals, as LiteLLM tells them, are an engine's: tried again, waited for, or the chat's own fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

import pytest

from services.config.schema import OverflowConfig
from services.contracts.chats import KvBits, Sampling
from services.engines.base import EngineBusy, EngineError, EngineRejected, EngineRequest, EngineUnavailable
from services.engines.overflow import OverflowEngine

pytestmark = pytest.mark.skipif(find_spec("litellm") is None, reason="LiteLLM is not installed: make dev")

REQUEST = EngineRequest(
    chat="c",
    prompt="Hi",
    max_tokens=4,
    sampling=Sampling(),
    salt="",
    kv_bits=KvBits.SIXTEEN,
    messages=({"role": "user", "content": "Hi"},),
)


@asynccontextmanager
async def _provider(status: int) -> AsyncIterator[str]:
    """Answers everything with this status; 0: closes the connection instead."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if status:
            body = b'{"error": {"message": "no", "type": "error", "code": null}}'
            head = f"HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0, EngineUnavailable),
        (500, EngineUnavailable),
        (502, EngineUnavailable),
        (503, EngineUnavailable),
        (504, EngineUnavailable),
        (429, EngineBusy),
        (401, EngineRejected),
        (403, EngineRejected),
        (400, EngineRejected),
        (422, EngineRejected),
    ],
)
async def test_what_a_provider_answers(status: int, error: type[EngineError], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    async with _provider(status) as url:
        engine = OverflowEngine("second", OverflowConfig(model="openai/x", api_base=url, usd_per_million_tokens=0.0))
        await engine.start(lambda _: None)
        with pytest.raises(error, match="second"):
            async for _ in engine.stream(REQUEST):
                pass
