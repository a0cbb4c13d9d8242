"""Which engines ``benchmarks.gpu.kvplanes`` runs: models, caches, and batches that decode. No torch here."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import NamedTuple

BATCH = 32
SPARE = 64  # tokens a request may decode on top of its context
KV_32K = 32_704  # 32,768 with SPARE


class Cache(NamedTuple):
    """SGLang's attention backend and cache dtype, and the planes' bits (0 for SGLang's own cache)."""

    backend: str
    dtype: str = "auto"
    bits: int = 0


CACHES = {
    "kv4": Cache("triton", bits=4),
    "kv8": Cache("triton", bits=8),
    "kv4_triton": Cache("triton", bits=4),  # planes without the CUDA C++ kernel
    "kv8_triton": Cache("triton", bits=8),
    "triton": Cache("triton"),
    "flashinfer": Cache("flashinfer"),
    "flashinfer_fp8": Cache("flashinfer", "fp8_e4m3"),
}


@dataclass(frozen=True)
class Job:
    """`batch` requests that decode with `context` tokens each; `ragged`: with an eighth to fifteen eighths of it."""

    context: int
    batch: int = BATCH
    ragged: bool = False
    profile: bool = False
    demote: bool = False

    @property
    def name(self) -> str:
        """The figure's name."""
        kind = "ragged" if self.ragged else "decode"
        return f"{kind}_{self.batch}x{self.context}"

    def lengths(self) -> list[int]:
        """Tokens of each request."""
        if not self.ragged:
            return [self.context] * self.batch
        draw = random.Random(self.batch)
        return [draw.randint(self.context // 8, self.context * 15 // 8) for _ in range(self.batch)]


@dataclass(frozen=True)
class Run:
    """One engine configuration: a model folder, a cache, what decodes, and whether prefill is measured, too."""

    model: str
    cache: str
    jobs: tuple[Job, ...]
    prefill: bool = False

    @property
    def name(self) -> str:
        """The figure's name."""
        return f"{self.model} {self.cache}"

    def to_json(self) -> str:
        """For the worker's environment."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Run:
        """What ``to_json`` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "jobs": tuple(Job(**job) for job in fields["jobs"])})


LENGTHS = (1024, 4096, 16384, KV_32K)
MAIN = tuple(Job(context, profile=context in (4096, 16384)) for context in LENGTHS)
BATCHES = (Job(16384, 1), Job(4096, 8), Job(16384, 8), Job(4096, 64), Job(4096, ragged=True), Job(8192, ragged=True))
LARGE = (Job(1024), Job(4096, profile=True), Job(16384, 24), Job(16384, 1))
EIGHT = tuple(Job(context, demote=True) for context in LENGTHS)
RUNS = (
    Run("qwen2.5-7b-awq", "kv4", MAIN + BATCHES, prefill=True),
    Run("qwen2.5-7b-awq", "flashinfer", MAIN + BATCHES, prefill=True),
    Run("qwen2.5-7b-awq", "flashinfer_fp8", MAIN + BATCHES),
    Run("qwen2.5-7b-awq", "kv8", EIGHT + BATCHES),
    Run("qwen2.5-7b-awq", "triton", MAIN + BATCHES, prefill=True),
    Run("qwen2.5-7b-awq", "kv4_triton", MAIN),
    Run("qwen2.5-7b-awq", "kv8_triton", MAIN),
    Run("qwen2.5-7b", "kv4", MAIN, prefill=True),
    Run("qwen2.5-7b", "flashinfer", MAIN, prefill=True),
    Run("qwen2.5-7b", "flashinfer_fp8", MAIN),
    Run("qwen2.5-7b", "triton", MAIN),
    Run("qwen2.5-7b", "kv8", MAIN),
    Run("qwq-32b-awq", "kv4", LARGE, prefill=True),
    Run("qwq-32b-awq", "flashinfer", LARGE, prefill=True),
    Run("qwq-32b-awq", "flashinfer_fp8", LARGE),
    Run("qwq-32b-awq", "kv8", LARGE),
)
