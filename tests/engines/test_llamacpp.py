"""What only the llama.cpp side has: slots by salt, GGUF headers, three real KV precisions."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from services.config.schema import ConfigError, ModelConfig
from services.contracts.chats import KvBits
from services.engines.base import EngineBusy, EngineRejected, EngineUnavailable
from services.engines.factory import build_engine
from services.engines.llamacpp import LlamaCppEngine
from services.engines.llamacpp_slots import Slots
from services.model_files.gguf import GgufError, read_gguf

from .kits import GGUF, Kit, collect, llamacpp_kit, text_of


@pytest.fixture(scope="module")
def llamacpp() -> Kit:
    return llamacpp_kit()


async def test_each_precision_answers_and_takes_its_bytes(llamacpp: Kit, tmp_path: Path) -> None:
    engine = llamacpp.build(tmp_path / "log", GGUF, 0)
    seen = {}
    try:
        for bits in KvBits:
            facts = await engine.set_kv_bits(bits, lambda _word: None)
            seen[int(bits)] = facts.kv_bytes_per_token[int(bits)]
            pieces = await collect(engine, llamacpp.request("q", "What is the capital of France?", kv_bits=bits))
            assert text_of(pieces) == "The capital of France is Paris."
    finally:
        await engine.stop()
    # 30 layers x 3 KV heads x (64 + 64) values; ggml adds an fp16 scale to every 32 values
    assert seen == {4: 11520 * 18 // 32, 8: 11520 * 34 // 32, 16: 11520 * 2}


async def test_more_chats_than_slots_are_busy_and_adapters_are_refused(llamacpp: Kit, tmp_path: Path) -> None:
    engine = llamacpp.build(tmp_path / "log", GGUF, 0)
    try:
        await engine.start(lambda _word: None)
        chats = [collect(engine, llamacpp.request(f"c{n}", "Count to ten.", max_tokens=8)) for n in range(3)]
        answers = await asyncio.gather(*chats, return_exceptions=True)
        assert [type(answer) for answer in answers].count(EngineBusy) == 1
        with pytest.raises(EngineRejected, match="LoRA"):
            await collect(engine, llamacpp.request("lora", "Hi", adapter="formal"))
    finally:
        await engine.stop()


async def test_a_chat_that_a_restart_ended_gives_no_slot_of_the_new_server(llamacpp: Kit, tmp_path: Path) -> None:
    """It gave its own to the new server's: two chats then went to one slot."""
    engine = llamacpp.build(tmp_path / "log", GGUF, 0)
    try:
        facts = await engine.start(lambda _word: None)
        old = engine.stream(llamacpp.request("old", "Count to a hundred.", max_tokens=200))
        await anext(old)
        await engine.set_kv_bits(KvBits.FOUR, lambda _word: None)
        with pytest.raises(EngineUnavailable):
            async for _ in old:
                pass
        chats = [
            collect(engine, llamacpp.request(f"c{n}", "Count to ten.", max_tokens=8, kv_bits=KvBits.FOUR))
            for n in range(facts.chats_max + 1)
        ]
        answers = await asyncio.gather(*chats, return_exceptions=True)
        assert [type(answer) for answer in answers].count(EngineBusy) == 1
    finally:
        await engine.stop()


def test_a_slot_that_is_released_twice_is_one() -> None:
    slots = Slots(1)
    taken = slots.take("a", [1])
    assert taken is not None
    slots.release(taken[0], 4)
    slots.forget(taken[0])
    slots.release(taken[0], 0)
    assert slots.take("b", [2]) is not None
    assert slots.take("c", [3]) is None


def test_slots_reuse_only_what_the_same_salt_left() -> None:
    slots = Slots(2)
    taken = slots.take("a", [1, 2, 3])
    assert taken is not None
    first, reuse = taken
    assert not reuse
    slots.release(first, 10)
    assert slots.cached_tokens == 10

    taken = slots.take("a", [1, 2, 9])
    assert taken == (first, True)
    slots.release(first, 12)

    taken = slots.take("b", [1, 2, 3])
    assert taken is not None
    second, reuse = taken
    assert (second.number != first.number, reuse) == (True, False)
    assert slots.take("c", [1]) == (first, False)
    assert slots.take("d", [1]) is None


def test_slots_prefer_the_longest_prefix_and_spare_the_recent() -> None:
    slots = Slots(3)
    all_taken = [slots.take("a", prompt) for prompt in ([1, 2, 3, 4], [1, 9], [7])]
    for taken in all_taken:
        assert taken is not None
        assert not taken[1]
        slots.release(taken[0], 4)
    best = slots.take("a", [1, 2, 3, 5])
    assert best is not None
    assert (best[0].prompt, best[1]) == ([1, 2, 3, 5], True)
    assert best[0].number == 0
    other = slots.take("b", [1, 2])
    assert other is not None
    assert (other[0].number, other[1]) == (1, False)


def test_a_forgotten_slot_is_never_reused() -> None:
    slots = Slots(1)
    taken = slots.take("a", [1, 2, 3])
    assert taken is not None
    slots.forget(taken[0])
    slots.release(taken[0], 0)
    again = slots.take("a", [1, 2, 3])
    assert again is not None
    assert not again[1]


def test_header_of_a_real_file() -> None:
    shape = read_gguf(GGUF).shape()
    assert (shape.architecture, shape.layers, shape.kv_values_per_token) == ("llama", 30, 30 * 3 * 128)
    assert (shape.context_tokens, shape.vocabulary, shape.quantization) == (8192, 49152, "q4_1")
    assert 0 < GGUF.stat().st_size - shape.weight_bytes < 3_000_000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + b"\0" * 100, "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "corrupt"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**50) + b"x", "corrupt"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 77), "corrupt"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + b"\0" * 8, "architecture"),
    ],
)
def test_broken_headers_say_what_is_wrong(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(GgufError, match=words) as caught:
        read_gguf(path).shape()
    assert str(path) in str(caught.value)


def test_every_cut_of_the_header_is_an_error(tmp_path: Path) -> None:
    whole = GGUF.read_bytes()[:2_000_000]
    path = tmp_path / "model.gguf"
    for size in [*range(1, 400, 7), *range(1000, 1_900_000, 100_003)]:
        path.write_bytes(whole[:size])
        with pytest.raises(GgufError):
            read_gguf(path).shape()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kv_bits": "mixed"}, "one KV precision"),
        ({"kv_tokens": 1000}, "leave kv_tokens out"),
        ({"quantization": "awq"}, "quantization"),
        ({"adapters": {"formal": "x"}}, "adapters"),
        ({"flags": ("--mlock",)}, "no flags"),
    ],
)
def test_configuration_that_llamacpp_cannot_serve(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    settings = ModelConfig(engine="llamacpp", weights=str(GGUF), **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words):
        build_engine("m", settings, GGUF, tmp_path)


def test_factory_passes_the_configuration_on(tmp_path: Path) -> None:
    settings = ModelConfig(engine="llamacpp", weights=str(GGUF), kv_bits=4, context_tokens=512, chats_max=3, threads=1)
    engine = build_engine("m", settings, GGUF, tmp_path)
    assert isinstance(engine, LlamaCppEngine)
    options = engine.options
    assert (options.kv_bits, options.context_tokens, options.chats_max, options.threads) == (4, 512, 3, 1)
    assert options.log_path == tmp_path / "logs" / "engine-m.log"
