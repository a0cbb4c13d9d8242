"""SGLang's command line, number formats, memory arithmetic and configuration, without a server."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from pathlib import Path

import pytest

from services.config.schema import ConfigError, ModelConfig
from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts
from services.devices.telemetry import GpuReading
from services.engines.base import EngineRequest, EngineStartError, EngineUnavailable, KvBitsUnsupported
from services.engines.factory import build_engine
from services.engines.http import EventStream
from services.engines.sglang import SglangEngine
from services.engines.sglang_flags import SglangPlan, kv_dtype_for
from services.engines.sglang_memory import CUDA_BYTES, activation_bytes, memory_shortfall, overhead_bytes
from services.engines.sglang_server import SglangOptions, SglangServer
from services.model_files.model_config import INDEX, ModelConfigError, missing_shards, read_model_config

QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


def _folder(path: Path, **changes: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**QWEN_7B, **changes}))
    return path


def _shard(path: Path) -> Path:
    """A safetensors file with one tensor of 8 bytes."""
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return path


def _plan(**changes: object) -> SglangPlan:
    return SglangPlan(Path("/models/m"), 30000, "fp8_e4m3", 4096, 16, **changes)  # type: ignore[arg-type]


def _after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_command_line_of_a_plan() -> None:
    plan = _plan(kv_tokens=60000, memory_fraction=0.25, quantization="awq_marlin", can_sleep=True, flags=("--x", "1"))
    words = plan.argv(Path("/env/python"), Path("/tmp/options.yaml"))
    assert words[:3] == ["/env/python", "-m", "sglang.launch_server"]
    assert _after(words, "--host") == "127.0.0.1"
    assert _after(words, "--kv-cache-dtype") == "fp8_e4m3"
    assert (_after(words, "--context-length"), _after(words, "--max-running-requests")) == ("4096", "16")
    assert (_after(words, "--max-total-tokens"), _after(words, "--mem-fraction-static")) == ("60000", "0.2500")
    assert _after(words, "--quantization") == "awq_marlin"
    assert {"--enable-memory-saver", "--enable-weights-cpu-backup", "--disable-priority-preemption"} <= set(words)
    assert words[-2:] == ["--x", "1"]
    assert _after(words, "--grammar-backend") == "llguidance", "xgrammar mistakes the bounds of numbers"
    assert "--attention-backend" not in words
    assert "PYTHONPATH" not in plan.environment({})


def test_command_line_of_a_cpu_and_of_planes() -> None:
    cpu = _plan(device="cpu")
    words = cpu.argv(Path("p"), Path("c"))
    assert (_after(words, "--device"), _after(words, "--attention-backend")) == ("cpu", "torch_native")
    assert {"--disable-overlap-schedule", "--disable-cuda-graph"} <= set(words)
    environment = cpu.environment(os.environ)
    assert environment["SGLANG_USE_CPU_ENGINE"] == "1"
    assert environment["PYTHONPATH"].split(":")[0].endswith("sglang_cpu")
    planes = _plan(kvplanes=True).argv(Path("p"), Path("c"))
    assert _after(planes, "--attention-backend") == "triton"
    assert "--cuda-graph-backend-prefill=disabled" in planes


def test_adapters_are_named_on_the_command_line() -> None:
    words = _plan(adapters={"formal": "/a/formal", "short": "/a/short"}).argv(Path("p"), Path("c"))
    at = words.index("--lora-paths")
    assert words[at + 1 : at + 3] == ["formal=/a/formal", "short=/a/short"]
    assert "--enable-lora" in words


@pytest.mark.parametrize(
    ("bits", "capability", "planes", "kv_dtype"),
    [
        (16, (9, 0), False, "bf16"),
        (8, (9, 0), False, "fp8_e4m3"),
        (8, (8, 9), False, "fp8_e4m3"),
        (8, (8, 0), False, "fp8_e5m2"),
        (8, None, False, "fp8_e5m2"),
        (4, (9, 0), True, "auto"),
    ],
)
def test_format_follows_the_gpu(bits: int, capability: tuple[int, int] | None, planes: bool, kv_dtype: str) -> None:
    found, why = kv_dtype_for(KvBits(bits), "cuda", capability, planes)
    assert found == kv_dtype
    assert why


def test_four_bits_point_to_planes_and_planes_refuse_sixteen() -> None:
    with pytest.raises(KvBitsUnsupported, match="KV planes"):
        kv_dtype_for(KvBits.FOUR, "cuda", (9, 0), False)
    with pytest.raises(KvBitsUnsupported, match="4 and 8"):
        kv_dtype_for(KvBits.SIXTEEN, "cuda", (9, 0), True)


def test_shape_of_a_folder_without_weights(tmp_path: Path) -> None:
    plain = read_model_config(_folder(tmp_path / "bf16"))
    assert (plain.layers, plain.kv_heads, plain.head_dim) == (28, 4, 128)
    assert plain.kv_values_per_token == 28 * 4 * 256
    assert plain.weight_bytes == pytest.approx(15.2e9, rel=0.01)  # Qwen2.5-7B's bf16 files
    awq = read_model_config(_folder(tmp_path / "awq", quantization_config=AWQ))
    assert awq.quantization == "awq"
    assert awq.weight_bytes == pytest.approx(5.57e9, rel=0.02)  # Qwen2.5-7B-Instruct-AWQ's files
    packed = {
        "config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 128}}},
        "quant_method": "compressed-tensors",
    }
    other = read_model_config(_folder(tmp_path / "ct", quantization_config=packed))
    assert other.weight_bytes == awq.weight_bytes


def test_shape_of_nested_and_latent_models(tmp_path: Path) -> None:
    nested = _folder(tmp_path / "nested", text_config={"num_hidden_layers": 2})
    assert read_model_config(nested).layers == 2
    latent = _folder(tmp_path / "mla", kv_lora_rank=512, qk_rope_head_dim=64)
    assert read_model_config(latent).kv_values_per_token == 28 * 576


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such file"),
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ("{}", "num_hidden_layers"),
        (json.dumps({**QWEN_7B, "num_attention_heads": "many"}), "num_attention_heads must be"),
        (json.dumps({**QWEN_7B, "num_hidden_layers": 0}), "num_hidden_layers must be"),
    ],
)
def test_corrupt_config_says_what_is_wrong(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelConfigError, match=words) as caught:
        read_model_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_weights_are_counted_in_the_files_and_a_cut_one_is_found(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m")
    file = _shard(folder / "model.safetensors")
    assert read_model_config(folder).weight_bytes == 8
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ModelConfigError, match="cut short by 3 bytes"):
        read_model_config(folder)
    file.write_bytes(b"not safetensors at all")
    with pytest.raises(ModelConfigError, match="not a safetensors file"):
        read_model_config(folder)


@pytest.mark.parametrize("indexed", [True, False])
def test_weights_that_are_not_all_there_are_estimated(tmp_path: Path, indexed: bool) -> None:
    folder = _folder(tmp_path / "m")
    estimate = read_model_config(folder).weight_bytes
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    if indexed:
        (folder / INDEX).write_text(json.dumps({"weight_map": {"a": first, "b": second}}))
    _shard(folder / first)
    assert missing_shards(folder) == [second]
    assert read_model_config(folder).weight_bytes == estimate
    _shard(folder / second)
    assert missing_shards(folder) == []
    assert read_model_config(folder).weight_bytes == 16


def test_a_corrupt_index_says_what_is_wrong(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m")
    for text, words in (("{", "cannot be read"), ("{}", "weight_map must be an object")):
        (folder / INDEX).write_text(text)
        with pytest.raises(ModelConfigError, match=words) as caught:
            read_model_config(folder)
        assert str(folder / INDEX) in str(caught.value)


def test_too_little_memory_says_how_much_and_what_would_fit(tmp_path: Path) -> None:
    model = read_model_config(_folder(tmp_path / "m", quantization_config=AWQ))
    per_token = model.kv_values_per_token * 2
    card = GpuReading("Test 24", 24_000_000_000, 14_000_000_000, {77: 13_000_000_000})
    assert memory_shortfall(model, card, 4096, per_token) is None
    words = memory_shortfall(model, card, 200_000, per_token)
    assert words is not None
    need = model.weight_bytes + 200_000 * per_token + 1_500_000_000
    assert f"{(need - 10_000_000_000) / 1e9:.1f} GB are missing" in words
    assert "process 77 (13.0 GB)" in words
    fits = int((10_000_000_000 - model.weight_bytes - 1_500_000_000) / (model.kv_values_per_token))
    assert f"{fits} tokens at 8 bits" in words
    full = GpuReading("Test 24", 24_000_000_000, 22_000_000_000)
    assert "Weights and runtime alone do not fit" in str(memory_shortfall(model, full, 10, per_token))


def test_an_engine_counts_the_activations_of_prompts_that_it_has_yet_to_read(tmp_path: Path) -> None:
    """Else each prompt's memory looks like a stranger's. An H100: 10.92 GB after the start, 11.27 after prompts."""
    seven_b = _folder(tmp_path / "m", hidden_size=3584, intermediate_size=18_944, quantization_config=AWQ)
    model, known = read_model_config(seven_b), 5_570_080_768 + 4_101_855_744
    assert known + overhead_bytes(model, 10_917_773_312, known) == pytest.approx(11_267_997_696, abs=100e6)
    assert overhead_bytes(model, 0, known) == CUDA_BYTES + activation_bytes(model), "where NVML says nothing"


def _engine(tmp_path: Path, **changes: object) -> SglangEngine:
    options = SglangOptions(weights=_folder(tmp_path / "m"), log_path=tmp_path / "log", **changes)  # type: ignore[arg-type]
    return SglangEngine("m", options)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/nowhere/python", "cannot run /nowhere/python: No such file"),
        (sys.executable, "has no SGLang; .*pip install"),
        ("other-version", "has SGLang 0.5.10; this host works with 0.5.17 only"),
    ],
)
async def test_interpreter_without_the_right_sglang(tmp_path: Path, python: str, words: str) -> None:
    path = Path(python)
    if python == "other-version":
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\necho 0.5.10\n")
        path.chmod(0o755)
    with pytest.raises(EngineStartError, match=words):
        await _engine(tmp_path, python=path, device="cpu").start(lambda _word: None)


async def test_a_port_that_was_taken_while_sglang_loaded_ends_its_start(tmp_path: Path) -> None:
    """Seen on a GPU host: uvicorn said so, SGLang's other threads lived on, and the start waited for ever."""
    path = tmp_path / "python"
    said = "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 38787): address already in use"
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo 0.5.17 && exit\necho "{said}"\nexec sleep 600\n')
    path.chmod(0o755)
    async with asyncio.timeout(30):
        with pytest.raises(EngineStartError, match="was taken by another process meanwhile"):
            await _engine(tmp_path, python=path, device="cpu").start(lambda _word: None)


async def test_planes_need_a_head_size_that_they_know(tmp_path: Path) -> None:
    engine = _engine(tmp_path, device="cpu", kvplanes=True)
    _folder(tmp_path / "m", head_dim=80)
    with pytest.raises(EngineStartError, match="80"):
        await engine.start(lambda _word: None)


class Card:
    """A GPU whose memory is as a test says; `why` it cannot be read is never asked."""

    why = ""

    def __init__(self, free: int) -> None:
        self._free = free

    def read(self) -> GpuReading:
        return GpuReading("Test 24", 24_000_000_000, 24_000_000_000 - self._free)


async def test_a_pool_of_planes_needs_one_slot_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SglangServer, "_free_port", lambda _server: pytest.fail("it fits"))
    for name, value in {"_check_version": _pass, "check_bits": lambda _server, _bits: ("auto", "")}.items():
        monkeypatch.setattr(SglangServer, name, value)
    slot_bytes, slots = 28 * 4 * (128 + 8), 200_000
    fixed = read_model_config(_folder(tmp_path / "m")).weight_bytes + 1_500_000_000
    monkeypatch.setattr("services.engines.sglang_server.GpuSource", lambda _gpu: Card(fixed + slots * slot_bytes))
    with pytest.raises(pytest.fail.Exception, match="it fits"):
        await _engine(tmp_path, kvplanes=True, kv_tokens=slots).start(lambda _word: None)
    with pytest.raises(EngineStartError, match="15 kB are missing"):
        await _engine(tmp_path, kvplanes=True, kv_tokens=slots + 1).start(lambda _word: None)
    # Without a size for the pool one chat of full context must fit, and it may ask for 8 bits.
    with pytest.raises(EngineStartError, match=f"KV cache for {slots // 2 + 1} tokens"):
        await _engine(tmp_path, kvplanes=True, context_tokens=slots // 2 + 1).start(lambda _word: None)


async def _pass(_server: SglangServer) -> None:
    """The interpreter is the right one."""


class Planes:
    """KV planes' control socket of a server that has the requests `rids`."""

    def __init__(self) -> None:
        self.rids: set[str] = set()
        self.promoted: list[str | None] = []  # None: all
        self.answers = asyncio.Event()
        self.answers.set()

    async def demote(self, *, rid: str | None = None) -> dict[str, int]:
        await self.answers.wait()
        return {"freed_bytes": 0, "tokens": 0, "sessions": len(self.rids) if rid is None else int(rid in self.rids)}

    async def promote(self, *, rid: str | None = None) -> dict[str, int]:
        self.promoted.append(rid)
        return {"freed_bytes": 0, "tokens": 0, "sessions": len(self.rids) if rid is None else int(rid in self.rids)}


class Up:
    """A process that runs."""

    running = True


class Wire:
    """Connects to the server when told to, and ends every answer at once."""

    def __init__(self) -> None:
        self.asked, self.connected = asyncio.Event(), asyncio.Event()

    async def open_events(self, *_request: object) -> EventStream:
        self.asked.set()
        await self.connected.wait()
        raise EngineUnavailable("the connection was lost")

    async def post(self, *_request: object) -> None:
        """Nothing is left to abort."""


async def test_a_chat_that_sglang_does_not_have_yet_is_not_said_to_be_demoted(tmp_path: Path) -> None:
    engine, planes, wire = _engine(tmp_path, device="cpu", kvplanes=True), Planes(), Wire()
    engine._server.control = planes  # type: ignore[assignment]
    facts = EngineFacts("m", "sglang", 0, 0, 1 << 30, {4: 1, 8: 2}, 4096, 4, KvBits.EIGHT, live_kv_bits=True)
    engine._up = lambda: (wire, facts)  # type: ignore[method-assign,assignment,return-value]
    pieces = engine.stream(EngineRequest("one", [1, 2], 4, Sampling(), "salt", KvBits.EIGHT))
    chat = asyncio.ensure_future(anext(pieces))
    await wire.asked.wait()
    with pytest.raises(EngineUnavailable, match="does not have chat one"):
        await engine.set_chat_kv_bits("one", KvBits.FOUR)
    planes.rids.add("one.1")
    await engine.set_chat_kv_bits("one", KvBits.FOUR)
    wire.connected.set()
    with pytest.raises(EngineUnavailable, match="connection was lost"):
        await chat
    await engine.set_chat_kv_bits("one", KvBits.FOUR)


async def test_a_chat_that_is_sent_again_while_it_is_lowered_is_not_said_to_be_low(tmp_path: Path) -> None:
    """It runs at 8 bits under its new name, and the ledger gave half of its memory to others."""
    engine, planes = _engine(tmp_path, device="cpu", kvplanes=True), Planes()
    facts = EngineFacts("m", "sglang", 0, 0, 1 << 30, {4: 1, 8: 2}, 4096, 4, KvBits.EIGHT, live_kv_bits=True)
    engine._server.control = planes  # type: ignore[assignment]
    planes.rids.add("one.1")
    planes.answers.clear()

    async def sent() -> tuple[Wire, asyncio.Future[object]]:
        wire = Wire()
        engine._up = lambda: (wire, facts)  # type: ignore[method-assign,assignment,return-value]
        chat = EngineRequest("one", [1, 2], 4, Sampling(), "salt", KvBits.EIGHT)
        streaming: asyncio.Future[object] = asyncio.ensure_future(anext(engine.stream(chat)))
        await wire.asked.wait()
        return wire, streaming

    first, turned_away = await sent()
    lowering = asyncio.ensure_future(engine.set_chat_kv_bits("one", KvBits.FOUR))
    first.connected.set()
    await asyncio.wait([turned_away])
    second, streaming = await sent()
    planes.answers.set()
    with pytest.raises(EngineUnavailable, match="chat one was sent again"):
        await lowering
    second.connected.set()
    await asyncio.gather(turned_away, streaming, return_exceptions=True)


async def test_an_order_to_8_bits_raises_no_chat_that_is_counted_at_4(tmp_path: Path) -> None:
    """They came to take twice what the ledger had for them. One that is still counted at 8 is raised again."""
    engine, planes, wire = _engine(tmp_path, device="cpu", kvplanes=True), Planes(), Wire()
    facts = EngineFacts("m", "sglang", 0, 0, 1 << 30, {4: 1, 8: 2}, 4096, 4, KvBits.EIGHT, live_kv_bits=True)
    engine._server.control, engine._facts = planes, facts  # type: ignore[assignment]
    engine._server._process = Up()  # type: ignore[assignment]
    engine._up = lambda: (wire, facts)  # type: ignore[method-assign,assignment,return-value]
    bits = {"low": KvBits.FOUR, "lowered": KvBits.EIGHT, "high": KvBits.EIGHT, "coming": KvBits.EIGHT}
    chats = [
        asyncio.ensure_future(anext(engine.stream(EngineRequest(chat, [1, 2], 4, Sampling(), "salt", bits[chat]))))
        for chat in bits
    ]
    await asyncio.sleep(0)
    planes.rids = {"low.1", "lowered.2", "high.3"}
    await engine.set_chat_kv_bits("lowered", KvBits.FOUR)
    assert (await engine.set_kv_bits(KvBits.FOUR, lambda _word: None)).kv_bits == KvBits.FOUR
    assert (await engine.set_kv_bits(KvBits.EIGHT, lambda _word: None)).kv_bits == KvBits.EIGHT
    assert planes.promoted == ["high.3", "coming.4"]
    wire.connected.set()
    await asyncio.gather(*chats, return_exceptions=True)
    await engine.set_kv_bits(KvBits.EIGHT, lambda _word: None)
    assert planes.promoted == ["high.3", "coming.4"]


def test_factory_builds_from_the_configuration(tmp_path: Path) -> None:
    settings = ModelConfig(
        engine="sglang", weights="m", kv_bits="mixed", python=Path("/env/python"), idle_after_s=60, adapters={"a": "/a"}
    )
    engine = build_engine("m", settings, tmp_path, tmp_path)
    assert isinstance(engine, SglangEngine)
    options = engine.options
    assert (options.kvplanes, options.kv_bits, options.python) == (True, 8, Path("/env/python"))
    assert not engine.can_sleep, "KV planes refuse SGLang's memory saver"
    asleep = build_engine("m", settings.model_copy(update={"kv_bits": 8, "adapters": {}}), tmp_path, tmp_path)
    assert asleep.can_sleep
    assert options.adapters == {"a": "/a"}
    with pytest.raises(ConfigError, match="mixed"):
        build_engine("m", ModelConfig(engine="sglang", weights="m", kv_bits=4), tmp_path, tmp_path)
