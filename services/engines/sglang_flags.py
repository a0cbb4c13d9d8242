"""SGLang's command line and environment, built from one frozen plan. Written for version 0.5.17."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.contracts.chats import KvBits
from services.contracts.engine_kinds import SGLANG
from services.engines.base import KvBitsUnsupported

VERSION = "0.5.17"
DETERMINISTIC = "--enable-deterministic-inference"
NO_FOUR_BITS = (
    "SGLang itself has no 4-bit KV that is fast enough: its fp4 takes 3.5 times as long a step as bf16 on Hopper. "
    "Set kv_bits: mixed, which turns on KV planes (4 and 8 bits in one pool), or take 8 or 16"
)
CPU_STAND_IN = Path(__file__).with_name("sglang_cpu")
PREFILL_CHUNK = SGLANG.overhead["cuda"].chunk_tokens
PROMPT_LOGPROBS_TOKENS = 128  # whose logits are kept at once: of a vocabulary of 150,000, 80 MB
_ADA = (8, 9)  # the first compute capability with 8-bit floats in hardware, both kinds
# Room for any usual adapter that may be loaded later. Without embeddings: those make every step slower.
_LORA_RANK_MAX = 64
_LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class SglangPlan:
    """How one SGLang server is started. `context_tokens` is of one chat, prompt and answer.

    The KV pool is `kv_tokens` large, or what `memory_fraction` of the free memory leaves; both None: SGLang's choice.
    `kv_dtype` comes from `kv_dtype_for`. `flags` are appended as they are and win over everything here.
    """

    weights: Path
    port: int
    kv_dtype: str
    context_tokens: int
    chats_max: int
    kv_tokens: int | None = None
    memory_fraction: float | None = None
    device: Literal["cuda", "cpu"] = "cuda"
    quantization: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)  # name -> folder
    attention_backend: str | None = None
    can_sleep: bool = False
    kvplanes: bool = False
    has_states: bool = False  # of linear or state-space layers
    flags: tuple[str, ...] = ()

    def argv(self, python: Path, config_file: Path) -> list[str]:
        """The whole command. `config_file` is a YAML file of further options, for what must not show in `ps`."""
        words = [str(python), "-m", "sglang.launch_server", "--config", str(config_file)]
        words += ["--model-path", str(self.weights), "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--kv-cache-dtype", self.kv_dtype, "--context-length", str(self.context_tokens)]
        words += ["--max-running-requests", str(self.chats_max)]
        words += ["--stream-interval", "1", "--incremental-streaming-output", "--enable-cache-report"]
        # A chat that the host let in holds a reservation; SGLang must not push it out for a later one.
        words += ["--enable-priority-scheduling", "--disable-priority-preemption"]
        # xgrammar, the default, mistakes bounds of numbers, and its masks need a GPU in this version.
        words += ["--grammar-backend", "llguidance"]
        words += ["--constrained-json-disable-any-whitespace"]  # small models fill answers with blank lines
        words += ["--sleep-on-idle", "--log-level-http", "warning"]
        words += self._memory() + self._device() + self._lora()
        if self.quantization is not None:
            words += ["--quantization", self.quantization]
        return [*words, *self.flags]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """To be added to `base`, the interpreter's environment."""
        variables = {
            "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",  # /health answers at once, costs no token
            "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",  # before temperature, as other APIs have them
            "SGLANG_LOGPROB_CHUNK_SIZE": str(PROMPT_LOGPROBS_TOKENS),
            "SGLANG_TIMEOUT_KEEP_ALIVE": "5",  # longer than we keep a connection (services.engines.http)
        }
        if self.device == "cpu":
            variables["SGLANG_USE_CPU_ENGINE"] = "1"
            variables["OMP_WAIT_POLICY"] = "passive"  # spinning threads starve everything else on the machine
            path = base.get("PYTHONPATH", "")
            variables["PYTHONPATH"] = os.pathsep.join(part for part in (str(CPU_STAND_IN), path) if part)
        return variables

    def _memory(self) -> list[str]:
        words = []
        if self.kv_tokens is not None:
            words += ["--max-total-tokens", str(self.kv_tokens)]
        if self.memory_fraction is not None:
            words += ["--mem-fraction-static", f"{self.memory_fraction:.4f}"]
        if self.has_states:  # else they take nearly half of the pool's memory
            words += ["--max-mamba-cache-size", str(SGLANG.states_a_chat * self.chats_max)]
        if self.can_sleep:
            words += ["--enable-memory-saver", "--enable-weights-cpu-backup"]
        return words

    def _device(self) -> list[str]:
        backend = self.attention_backend or self._attention_backend()
        words = ["--attention-backend", backend] if backend is not None else []
        if self.device == "cpu":
            return ["--device", "cpu", "--disable-overlap-schedule", "--disable-cuda-graph", *words]
        words += ["--cuda-graph-max-bs-decode", str(self.chats_max), "--chunked-prefill-size", str(PREFILL_CHUNK)]
        if self.kvplanes:
            words += ["--cuda-graph-backend-prefill=disabled"]
        return words

    def _attention_backend(self) -> str | None:
        """None: SGLang chooses."""
        if self.device == "cpu":
            return "torch_native"
        return "triton" if self.kvplanes else None

    def _lora(self) -> list[str]:
        if not self.adapters:
            return []
        words = ["--enable-lora", "--max-lora-rank", str(_LORA_RANK_MAX), "--lora-target-modules", *_LORA_MODULES]
        if self.device == "cpu":
            words += ["--lora-backend", "torch_native"]
        words += ["--max-loras-per-batch", str(min(len(self.adapters) + 1, 8)), "--lora-paths"]
        return words + [f"{name}={folder}" for name, folder in self.adapters.items()]


def kv_dtype_for(
    bits: KvBits, device: Literal["cuda", "cpu"], capability: tuple[int, int] | None, kvplanes: bool
) -> tuple[str, str]:
    """SGLang's KV number format for `bits`, and why it is that one.

    `capability` is the GPU's compute capability, None where it is unknown. Raises KvBitsUnsupported.
    """
    if kvplanes:
        if bits == KvBits.SIXTEEN:
            raise KvBitsUnsupported("KV planes hold 4 and 8 bits; for 16 start the engine without them")
        return "auto", "KV planes keep their own codes"
    if bits == KvBits.SIXTEEN:
        return "bf16", "16 bits are bfloat16"
    if bits == KvBits.EIGHT:
        return _eight_bits(device, capability)
    raise KvBitsUnsupported(NO_FOUR_BITS)


def _eight_bits(device: str, capability: tuple[int, int] | None) -> tuple[str, str]:
    if device == "cpu":
        return "fp8_e5m2", "torch converts e5m2 on a CPU by cutting bits off fp16"
    if capability is not None and capability >= _ADA:
        return "fp8_e4m3", "this GPU converts e4m3 in hardware, and it keeps one bit more of precision than e5m2"
    return "fp8_e5m2", "Triton compiles e4m3 only for compute capability 8.9 and up"
