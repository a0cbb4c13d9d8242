"""How much memory an SGLang process takes beside weights and pool, and whether a model fits on the GPU as it is now.

The check costs nothing and comes before minutes of loading.
"""

from __future__ import annotations

from services.contracts.engine_kinds import SGLANG
from services.contracts.units import bytes_in_words as _gb
from services.devices.telemetry import GpuReading
from services.model_files.shape import ModelShape

CUDA_BYTES = SGLANG.overhead["cuda"].fixed_bytes
RUNTIME_BYTES = 1_500_000_000  # CUDA context, workspaces and activations of one SGLang process, at the least


def activation_bytes(model: ModelShape) -> int:
    """Of one chunk of a prompt on a GPU."""
    return SGLANG.overhead["cuda"].activation_bytes(model.hidden, model.intermediate)


def overhead_bytes(model: ModelShape, held_bytes: int, known_bytes: int) -> int:
    """Bytes beside `known_bytes` of weights and pool, for a server on a GPU that has read no prompt yet.

    `held_bytes` comes from NVML; 0, where NVML cannot tell processes apart, counts as unknown.
    """
    beside = max(0, held_bytes - known_bytes) if held_bytes else CUDA_BYTES
    return beside + activation_bytes(model)


def memory_shortfall(
    model: ModelShape,
    reading: GpuReading,
    kv_tokens: int,
    bytes_per_token: int,
    *,
    own_bytes: int = 0,
    states_bytes: int = 0,
) -> str | None:
    """None when it fits, else what is missing and what would fit.

    `kv_tokens` is the pool asked for, or one chat's context where SGLang chooses the pool. `own_bytes`: memory that
    will be given back first. `states_bytes`: of all chats' linear or state-space layers.
    """
    free = reading.free_bytes + own_bytes
    fixed = model.weight_bytes + RUNTIME_BYTES + states_bytes
    need = fixed + kv_tokens * bytes_per_token
    if need <= free:
        return None
    words = (
        f"the GPU ({reading.name}) has {_gb(free)} free of {_gb(reading.total_bytes)}, and this needs {_gb(need)}: "
        f"{_gb(model.weight_bytes)} weights, {_gb(kv_tokens * bytes_per_token)} KV cache for {kv_tokens} tokens, "
        f"{_gb(RUNTIME_BYTES)} runtime"
    )
    words += f", {_gb(states_bytes)} states of {model.unlike_attention}" if states_bytes else ""
    words += f"; {_gb(need - free)} are missing"
    if reading.process_bytes:
        users = sorted(reading.process_bytes.items(), key=lambda pair: -pair[1])[:4]
        words += ". In use by " + ", ".join(f"process {pid} ({_gb(size)})" for pid, size in users)
    if free <= fixed:
        return f"{words}. Weights and runtime alone do not fit; take a model with smaller weights"
    fits = [
        f"{(free - fixed) // model.kv_bytes_per_token(size, SGLANG.window_part)} tokens at {bits} bits"
        for bits, size in SGLANG.value_bytes.items()
    ]
    return f"{words}. What would fit: a KV cache of {' or '.join(fits)}"
