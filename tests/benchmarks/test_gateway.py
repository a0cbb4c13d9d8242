"""The worker of `make bench-gateway`, which stands for one whose engine keeps its connections."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.gateway.fake_engine import Connection
from benchmarks.gateway.worker import Elsewhere
from services.contracts.chats import KvBits, Sampling
from services.engines.base import EngineRequest
from services.engines.llamacpp import LlamaCppOptions


async def test_chats_one_after_another_share_a_connection() -> None:
    made: list[Connection] = []

    def connection() -> Connection:
        made.append(Connection())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    engine = Elsewhere("fake", LlamaCppOptions(Path("none"), Path("/dev/null"), context_tokens=1024, chats_max=4))
    engine.port = server.sockets[0].getsockname()[1]
    await engine.start(lambda _words: None)
    for number in range(3):
        request = EngineRequest(f"c{number}", "Hello", 2, Sampling(), "salt", KvBits.EIGHT)
        pieces = [piece async for piece in engine.stream(request)]
        assert [piece.finish for piece in pieces if piece.finish] == ["length"]
    assert len(made) == 1
    engine._up()[0].close()
    server.close()
