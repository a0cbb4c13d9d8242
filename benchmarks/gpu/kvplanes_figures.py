"""The figures that the project claims, computed from what ``benchmarks.gpu.kvplanes`` measured. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.kvplanes_runs import KV_32K

SMALL, PLAIN, LARGE = "qwen2.5-7b-awq", "qwen2.5-7b", "qwq-32b-awq"
# name: model, baseline, ours, figure. A ratio is the baseline's milliseconds over ours.
RATIOS = {
    "vs_flashinfer_1k": (SMALL, "flashinfer", "kv4", "decode_32x1024"),
    "vs_flashinfer_4k": (SMALL, "flashinfer", "kv4", "decode_32x4096"),
    "vs_flashinfer_16k": (SMALL, "flashinfer", "kv4", "decode_32x16384"),
    "vs_flashinfer_32k": (SMALL, "flashinfer", "kv4", f"decode_32x{KV_32K}"),
    "vs_flashinfer_fp8_4k": (SMALL, "flashinfer_fp8", "kv4", "decode_32x4096"),
    "vs_flashinfer_fp8_16k": (SMALL, "flashinfer_fp8", "kv4", "decode_32x16384"),
    "vs_flashinfer_8bits_16k": (SMALL, "flashinfer", "kv8", "decode_32x16384"),
    "vs_flashinfer_fp8_8bits_16k": (SMALL, "flashinfer_fp8", "kv8", "decode_32x16384"),
    "vs_triton_4k": (SMALL, "triton", "kv4", "decode_32x4096"),
    "vs_triton_16k_awq": (SMALL, "triton", "kv4", "decode_32x16384"),
    "vs_triton_16k": (PLAIN, "triton", "kv4", "decode_32x16384"),
    "vs_flashinfer_16k_bf16_weights": (PLAIN, "flashinfer", "kv4", "decode_32x16384"),
    "batch_1_16k": (SMALL, "flashinfer", "kv4", "decode_1x16384"),
    "batch_8_16k": (SMALL, "flashinfer", "kv4", "decode_8x16384"),
    "batch_64_4k": (SMALL, "flashinfer", "kv4", "decode_64x4096"),
    "ragged_4k": (SMALL, "flashinfer", "kv4", "ragged_32x4096"),
    "ragged_8k": (SMALL, "flashinfer", "kv4", "ragged_32x8192"),
    "vs_cuda_less_4k": (SMALL, "kv4_triton", "kv4", "decode_32x4096"),
    "vs_cuda_less_16k": (SMALL, "kv4_triton", "kv4", "decode_32x16384"),
    "prefill_ratio_4k": (SMALL, "flashinfer", "kv4", "prefill_4096"),
    "prefill_ratio_4k_on_8k": (SMALL, "flashinfer", "kv4", "extend_8192_4096"),
    "prefill_ratio_4k_bf16_weights": (PLAIN, "flashinfer", "kv4", "prefill_4096"),
    "prefill_ratio_4k_on_8k_bf16_weights": (PLAIN, "flashinfer", "kv4", "extend_8192_4096"),
    "qwq_vs_flashinfer_4k": (LARGE, "flashinfer", "kv4", "decode_32x4096"),
    "qwq_vs_flashinfer_fp8_16k": (LARGE, "flashinfer_fp8", "kv4", "decode_24x16384"),
    "qwq_vs_flashinfer_16k": (LARGE, "flashinfer", "kv4", "decode_24x16384"),
}


def named(measured: Mapping[str, Any]) -> dict[str, float]:
    """Ratios by name: end to end, and with ``_gpu`` by GPU events; and parts of the copy's bandwidth. What was not
    measured is left out."""
    engines = measured.get("engines", {})
    found: dict[str, float] = {}
    for name, (model, baseline, ours, figure) in RATIOS.items():
        base, own = engines.get(f"{model} {baseline}", {}), engines.get(f"{model} {ours}", {})
        for suffix in ("", "_gpu"):
            key = f"{figure}{suffix}_ms"
            if base.get(key) and own.get(key):
                found[f"{name}{suffix}"] = round(base[key] / own[key], 3)
    kernels = measured.get("kernels", {})
    for context, short in ((4096, "4k"), (16384, "16k")):
        for bits in (4, 8):
            part = kernels.get(f"qwen2.5-7b {context}", {}).get(f"kv{bits}_part_of_copy")
            if part:
                found[f"bandwidth_part_{bits}bit_{short}"] = part
    return found
