"""The decode kernels alone: planes against SGLang's Triton kernel, and against the bandwidth of a plain copy."""

from __future__ import annotations

from typing import Any

import torch
from triton.testing import do_bench

from services.kvplanes.kernels import launch
from services.kvplanes.layout import Shape, bytes_per_token
from services.kvplanes.planes import Planes

BATCH = 32
SHAPES = {"qwen2.5-7b": (4, 7), "qwq-32b": (8, 5)}  # KV heads, query heads a KV head; head dim 128
CONTEXTS = (1024, 4096, 16384)
SINKS, RECENT = 4, 32


def gpu_name() -> str:
    """The GPU, as its driver names it."""
    return str(torch.cuda.get_device_name())


def timed(function: Any) -> float:
    """Median microseconds, the L2 cache cleared between runs."""
    return round(do_bench(function, warmup=10, rep=60, return_mode="median") * 1e3, 2)


def copy_gbps() -> float:
    """Bytes read plus bytes written a second by a device-to-device copy, in GB/s."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return round(2 * source.numel() / timed(lambda: target.copy_(source)) / 1e3, 1)


def planes_us(heads: int, group: int, context: int, bits: int, tuning: launch.Tuning) -> float:
    """One layer's decode at `bits`, both of its launches."""
    total = BATCH * context
    layer = Planes(Shape(1, heads, 128), total * (bits // 4) + BATCH * 64, "cuda").layer(0)
    layer.codes.random_(0, 256)
    layer.scales[..., 0].uniform_(0.05, 0.3)
    layer.scales[..., 1].normal_(0, 0.2)
    table = torch.arange(1, total + 1, dtype=torch.int32, device="cuda").view(BATCH, context)
    position = torch.arange(context, device="cuda").repeat(BATCH)
    fine = (position < SINKS) | (position >= context - RECENT) | (bits == 8)
    layer.low_of[1 : total + 1][fine] = torch.arange(total + 1, total + 1 + int(fine.sum()), device="cuda").int()
    lengths = torch.full((BATCH,), context, device="cuda")
    plan = launch.DecodePlan.allocate(BATCH, heads * group, heads, 128, "cuda", tuning)
    plan.fill(lengths, tuning)
    query = torch.randn(BATCH, heads * group, 128, device="cuda", dtype=torch.float16)
    out = torch.empty(BATCH, heads * group * 128, device="cuda", dtype=torch.bfloat16)
    bit_row = torch.full((BATCH,), bits, dtype=torch.int32, device="cuda")
    req_rows = torch.arange(BATCH, device="cuda")
    options: dict[str, Any] = {"sinks": SINKS, "recent": RECENT, "out": out, "tuning": tuning}

    def step() -> None:
        launch.decode(layer, query, table, req_rows, lengths, 128**-0.5, plan=plan, req_bits=bit_row, **options)

    return timed(step)


def sglang_us(heads: int, group: int, context: int, dtype: torch.dtype) -> float:
    """The same by SGLang's Triton kernel, cut as SGLang cuts it."""
    from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
    from sglang.kernels.ops.attention.metadata import get_num_kv_splits_triton

    total, query_heads, splits = BATCH * context, heads * group, 8
    pair = [torch.randn(total + 1, heads, 128, device="cuda", dtype=torch.bfloat16).to(dtype) for _ in range(2)]
    query = torch.randn(BATCH, query_heads, 128, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(query)
    indptr = torch.arange(0, total + 1, context, device="cuda", dtype=torch.int32)
    indices = torch.arange(1, total + 1, device="cuda")
    part = torch.empty(BATCH, query_heads, splits, 128, device="cuda")
    lse = torch.empty(BATCH, query_heads, splits, device="cuda")
    count = torch.empty(BATCH, dtype=torch.int32, device="cuda")
    lengths = torch.full((BATCH,), context, device="cuda")
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    get_num_kv_splits_triton[(1,)](count, lengths, BATCH, 1, query_heads, heads, splits, processors, MAX_NUM_SEQ=256)
    return timed(
        lambda: decode_attention_fwd(
            query, *pair, out, indptr, indices, part, lse, count, splits, 128**-0.5, 1.0, 1.0
        )  # fmt: skip
    )


def measure(low_blocks: tuple[int, ...] = ()) -> dict[str, Any]:
    """Microseconds a layer by model shape, cache and context, and what follows from them.

    `low_blocks` times 8 bits with other sizes of the tiles that read both planes, too.
    """
    figures: dict[str, Any] = {"copy_gbps": copy_gbps()}
    tuning = launch.Tuning()
    for name, (heads, group) in SHAPES.items():
        for context in CONTEXTS:
            key = f"{name} {context}"
            four, eight = (planes_us(heads, group, context, bits, tuning) for bits in (4, 8))
            plain = sglang_us(heads, group, context, torch.bfloat16)
            half = sglang_us(heads, group, context, torch.float8_e5m2)
            read = BATCH * context * bytes_per_token({"layers": 1, "kv_heads": heads, "head_dim": 128}, 4)
            figures[key] = {
                "kv4_us": four,
                "kv8_us": eight,
                "bf16_us": plain,
                "fp8_e5m2_us": half,
                "kv4_speedup": round(plain / four, 2),
                "kv8_speedup": round(plain / eight, 2),
                "kv4_gbps": round(read / four / 1e3, 1),
                "kv4_part_of_copy": round(read / four / 1e3 / figures["copy_gbps"], 3),
            }
            for block in low_blocks:
                other = tuning._replace(low_block=block)
                figures[key][f"low_block_{block}"] = [planes_us(heads, group, context, bits, other) for bits in (4, 8)]
            print(key, figures[key], flush=True)
    return figures
