"""What the host must know about each engine before it runs: one value an engine, found by its name in the file.

A new engine is one entry here and one adapter in `services.engines`. Nothing else compares engine names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

# Bytes of one cached key or value, scales included.
F16 = Fraction(2)
FP8 = Fraction(1)
Q8_0 = Fraction(34, 32)  # ggml: 32 values of 8 bits and one fp16 scale
Q4_0 = Fraction(18, 32)  # ggml: 32 values of 4 bits and one fp16 scale

MIB = 2**20


class Pool(StrEnum):
    """Where the size of an engine's KV pool comes from."""

    PER_CHAT = "per_chat"  # chats_max x context_tokens
    REMAINDER = "remainder"  # what weights and overhead leave of the device


@dataclass(frozen=True, slots=True)
class Overhead:
    """Memory beside weights and KV on one device, estimated for before the first start. An engine that runs reports
    what it measured."""

    fixed_bytes: int  # runtime, graphs, workspaces
    logits_tokens: int = 0  # tokens of a batch whose logits are kept, 4 B a value
    chunk_tokens: int = 0  # tokens of a prompt that one step computes, with 2 B a value

    def activation_bytes(self, hidden: int, intermediate: int) -> int:
        """Of one chunk of a prompt: gate, up and their product; input, residual, query and output."""
        return self.chunk_tokens * (3 * intermediate + 4 * hidden) * 2

    def total_bytes(self, *, vocabulary: int, hidden: int, intermediate: int) -> int:
        """For a model of this shape."""
        logits_bytes = self.logits_tokens * vocabulary * 4
        return self.fixed_bytes + logits_bytes + self.activation_bytes(hidden, intermediate)


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One engine. `overhead` has an entry for each device that the engine runs on."""

    name: str
    title: str
    value_bytes: Mapping[int, Fraction]  # KV bits that it can be started with -> bytes of one cached value
    overhead: Mapping[str, Overhead]
    pool: Pool
    kv_bits_default: Mapping[str, int | str]  # by device; "mixed": KV planes, where the model's heads allow them
    kv_bits_risks: Mapping[int, str] = field(default_factory=dict)  # what an operator should know who sets these bits
    block_values: int = 1  # below 16 bits a head's size must be a multiple of it
    context_step: int = 1  # tokens; a chat's context is rounded up to a multiple of it
    window_part: Fraction = Fraction(0)  # a pool for sliding windows of so much of the pool's tokens; 0: one a chat
    window_more_tokens: int = 0  # that a chat's own window takes beside the model's
    states_a_chat: int = 1  # of linear and state-space layers, for steps under way and cached prefixes
    kv_planes: bool = False  # `kv_bits: mixed`: 4 and 8 bits in one pool, changed while chats run
    measures_quality: bool = False  # gives the probability of every next token
    prompt_logprobs: bool = False  # gives the probability of a prompt's tokens beside an answer
    packages: tuple[str, ...] = ()  # that `bunkhouse version` names

    def device(self, configured: str) -> str:
        """The device that it runs on where the configuration says `configured`."""
        return configured if configured in self.overhead else next(iter(self.overhead))

    def uses_gpu(self, configured: str) -> bool:
        """Whether weights and KV pool are in a GPU's memory."""
        return self.device(configured) == "cuda"

    def context_tokens(self, wanted: int) -> int:
        """Tokens of KV that a chat of so many tokens takes."""
        return -(-wanted // self.context_step) * self.context_step

    def chat_bytes(
        self,
        *,
        window_values: int,
        window_tokens: int,
        state_bytes: int,
        context_tokens: int,
        bytes_per_value: Fraction,
    ) -> int:
        """What a chat takes however short it is: its windows' values, of all layers, and its states."""
        cells = self.context_tokens(min(context_tokens, window_tokens + self.window_more_tokens))
        own = 0 if self.window_part else window_values * cells
        return int(own * bytes_per_value) + state_bytes * self.states_a_chat


LLAMACPP = EngineKind(
    name="llamacpp",
    title="llama.cpp",
    value_bytes={16: F16, 8: Q8_0, 4: Q4_0},
    overhead={"cpu": Overhead(64 * MIB, logits_tokens=512)},
    pool=Pool.PER_CHAT,
    kv_bits_default={"cpu": 8},
    block_values=32,  # ggml's q8_0 and q4_0
    context_step=256,
    window_more_tokens=512,  # a step's prompt tokens (`batch_tokens` of llamacpp_server)
    measures_quality=True,
    packages=("xllamacpp",),
)
SGLANG = EngineKind(
    name="sglang",
    title="SGLang",
    value_bytes={16: F16, 8: FP8},
    overhead={
        # CUDA context, workspaces and graphs of one process (docs/benchmarks/workers.json). A chunk of 2,048: SGLang
        # takes up to 8,192 on a large card, a gigabyte of activations for each model of 7B, and a third of a second in
        # which nobody's answer goes on.
        "cuda": Overhead(1370 * MIB, chunk_tokens=2048),
        "cpu": Overhead(2560 * MIB),  # three processes that each import torch
    },
    pool=Pool.REMAINDER,
    kv_bits_default={"cuda": "mixed", "cpu": 16},
    kv_bits_risks={8: "SGLang stores fp8 without scales, and some models, such as Qwen2 and Qwen2.5, answer garbage"},
    window_part=Fraction(8, 10),  # --swa-full-tokens-ratio
    states_a_chat=5,  # SGLang lets no more chats run than its states divided by 5 (3 without an overlapped schedule)
    kv_planes=True,
    prompt_logprobs=True,
    packages=("sglang",),
)
ENGINE_KINDS: Mapping[str, EngineKind] = {kind.name: kind for kind in (LLAMACPP, SGLANG)}
