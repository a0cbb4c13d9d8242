"""Faults and changes that end or restart a server, for every engine."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from services.contracts.engines import EngineState
from services.engines.base import EngineStartError, EngineUnavailable, KvBitsUnsupported

from .kits import Kit, Running, collect, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _nothing(_word: str) -> None:
    pass


async def test_crash_in_a_chat_is_unavailable_and_it_comes_back_at_other_bits(kit: Kit, running: Running) -> None:
    engine = running.engine
    stream = engine.stream(kit.request("crash", "Count from 1 to 100.", max_tokens=200))
    await anext(stream)
    for child in psutil.Process().children():
        if any("services.engines" in word or "sglang" in word for word in child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        async for _ in stream:
            pass
    assert not await engine.alive()
    with pytest.raises(EngineUnavailable):
        await engine.report()
    with pytest.raises(EngineUnavailable):
        await collect(engine, kit.request("down", "Hello"))

    # The way back up, and the change of KV bits: in one start, because it takes SGLang a minute.
    facts = await engine.set_kv_bits(kit.other_bits, _nothing)
    assert facts.kv_bits == kit.other_bits
    assert facts.kv_bytes_per_token[int(kit.other_bits)] != running.facts.kv_bytes_per_token[int(kit.bits)]
    running.facts = facts
    request = kit.request("again", "What is the capital of France?", kv_bits=kit.other_bits)
    assert text_of(await collect(engine, request)) == "The capital of France is Paris."


async def test_server_that_hangs_is_unavailable(kit: Kit, running: Running) -> None:
    servers = psutil.Process().children(recursive=True)
    stream = running.engine.stream(kit.request("hang", "Count to 100.", max_tokens=500, kv_bits=running.facts.kv_bits))
    await anext(stream)
    for server in servers:
        server.suspend()
    try:
        with pytest.raises(EngineUnavailable, match="hangs"):
            async for _ in stream:
                pass
        assert not await running.engine.alive()
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(running.engine.report(), 30)
    finally:
        for server in servers:
            server.resume()
    assert await running.engine.alive()


async def test_bits_that_nobody_has_are_refused(running: Running) -> None:
    with pytest.raises(KvBitsUnsupported):
        await running.engine.set_kv_bits(5, _nothing)  # type: ignore[arg-type]


async def test_sleep_gives_memory_back_and_wake_serves_again(kit: Kit, running: Running) -> None:
    if not running.engine.can_sleep:
        pytest.skip("this engine cannot sleep here")
    await running.engine.sleep()
    assert (await running.engine.report()).state is EngineState.ASLEEP
    facts = await running.engine.wake(_nothing)
    request = kit.request("awake", "What is the capital of France?", kv_bits=facts.kv_bits)
    assert "Paris" in text_of(await collect(running.engine, request))


async def test_weights_that_are_not_there(kit: Kit, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    engine = kit.build(tmp_path / "log", missing, 0)
    with pytest.raises(EngineStartError, match=str(missing)):
        await engine.start(_nothing)
    await engine.stop()


async def test_corrupt_weights(kit: Kit, tmp_path: Path) -> None:
    broken = kit.corrupt(tmp_path)
    engine = kit.build(tmp_path / "log", broken, 0)
    with pytest.raises(EngineStartError, match=str(broken)):
        await engine.start(_nothing)
    await engine.stop()


async def test_port_in_use(kit: Kit, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        engine = kit.build(tmp_path / "log", kit.weights, port)
        with pytest.raises(EngineStartError, match=str(port)):
            await engine.start(_nothing)
    await engine.stop()


async def test_stop_leaves_no_process(kit: Kit, running: Running) -> None:
    servers = [
        child
        for child in psutil.Process().children()  # not of whole hosts that other tests run
        if any("llamacpp_server" in word or "sglang" in word for word in child.cmdline())
    ]
    before = {process.pid for server in servers for process in (server, *server.children(recursive=True))}
    assert before
    await running.engine.stop()
    await running.engine.stop()
    left = {child.pid for child in psutil.Process().children(recursive=True)} & before
    assert not {pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}
    assert not await running.engine.alive()
