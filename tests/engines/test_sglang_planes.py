"""SGLang with KV planes behind the seam: two precisions at once, and a chat that changes while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from services.contracts.chats import KvBits
from services.engines.base import EngineRejected
from services.engines.sglang import SglangEngine

from .kits import Kit, Running, collect, sglang_kit, text_of

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def planes_kit() -> Kit:
    return replace(sglang_kit(), bits=KvBits.EIGHT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def planes(planes_kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    plain = planes_kit.build(tmp_path_factory.mktemp("planes") / "engine.log", planes_kit.weights, 0)
    assert isinstance(plain, SglangEngine)
    engine = SglangEngine("smollm2", replace(plain.options, kvplanes=True, kv_bits=KvBits.EIGHT, adapters={}))
    progress: list[str] = []
    try:
        yield Running(engine, await engine.start(progress.append), progress)
    finally:
        await engine.stop()


async def test_both_precisions_answer(planes_kit: Kit, planes: Running) -> None:
    assert planes.facts.live_kv_bits
    assert set(planes.facts.kv_bytes_per_token) == {4, 8}
    for bits in (KvBits.FOUR, KvBits.EIGHT):
        request = planes_kit.request(f"q{bits}", "What is the capital of France?", kv_bits=bits)
        assert "Paris" in text_of(await collect(planes.engine, request))
    with pytest.raises(EngineRejected, match="16"):
        await collect(planes.engine, planes_kit.request("q16", "Hello", kv_bits=KvBits.SIXTEEN))


async def test_a_running_chat_gives_memory_back_when_demoted(planes_kit: Kit, planes: Running) -> None:
    text = "Count from 1 to 100: " + " ".join(str(number) for number in range(100))
    stream = planes.engine.stream(planes_kit.request("demoted", text, max_tokens=200, salt="tenant-d"))
    await anext(stream)
    before = await planes.engine.report()
    await planes.engine.set_chat_kv_bits("demoted", KvBits.FOUR)
    after = await planes.engine.report()
    assert after.kv_used_bytes + after.kv_cached_bytes < before.kv_used_bytes + before.kv_cached_bytes
    assert (await asyncio.wait_for(anext(stream), 60)).tokens > 0
    await planes.engine.set_chat_kv_bits("nobody", KvBits.FOUR)
    await stream.aclose()  # type: ignore[attr-defined]
