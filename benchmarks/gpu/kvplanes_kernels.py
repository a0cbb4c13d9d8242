"""The decode kernels alone: planes against SGLang's Triton kernel, and against the bandwidth of a plain copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from services.kvplanes.kernels import launch
from services.kvplanes.kernels.cuda import nvrtc
from services.kvplanes.kernels.cuda.program import CudaTuning, cuda_tuning_for
from services.kvplanes.layout import PlaneShape, bytes_per_token
from services.kvplanes.planes import Planes

BATCH = 32
SHAPES = {"qwen2.5-7b": (4, 7), "qwq-32b": (8, 5)}  # KV heads, query heads a KV head; head dim 128
CONTEXTS = (1024, 4096, 16384)
SINKS, RECENT = 4, 32
LAYERS = 4


def timed(steps: list[Callable[[], Any]], repeats: int = 15) -> float:
    """Median microseconds of one of `steps`, which run back to back in a CUDA graph.

    Each works on memory of its own, as a model's layers do, so that none finds its cache warm; in a graph the host's
    launches cost nothing, as in serving.
    """
    for step in steps:
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for step in steps:
            step()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(steps))
    return float(round(sorted(times[3:])[len(times[3:]) // 2], 2))


def copy_gbps() -> float:
    """Bytes read plus bytes written a second by a device-to-device copy, in GB/s."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = []
    for _ in range(12):  # not in a graph, where it would be a job of the slower copy engine
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(round(2 * source.numel() / sorted(times)[6] / 1e6, 1))


def way_of(group: int, tuning: CudaTuning) -> launch.DecodeWay:
    """The CUDA C++ kernel of heads of 128 channels, built with `tuning`."""
    major, minor = torch.cuda.get_device_capability()
    variant = tuning.variant(128, group, torch.bfloat16)
    return launch.DecodeWay(tuning, nvrtc.load(variant, 10 * major + minor, early=tuning.early))


class PlanesCase:
    """LAYERS layers of a batch at one context length and precision."""

    def __init__(self, heads: int, group: int, context: int, bits: int, batch: int = BATCH) -> None:
        total = batch * context
        self.heads, self.group, self.batch = heads, group, batch
        self.planes = Planes(PlaneShape(LAYERS, heads, 128), total * (bits // 4) + batch * 64, "cuda")
        for codes, scales in zip(self.planes.codes, self.planes.scales, strict=True):
            codes.random_(0, 256)
            scales[..., 0].uniform_(0.05, 0.3)
            scales[..., 1].normal_(0, 0.2)
        self.table = torch.arange(1, total + 1, dtype=torch.int32, device="cuda").view(batch, context)
        position = torch.arange(context, device="cuda").repeat(batch)
        fine = (position < SINKS) | (position >= context - RECENT) | (bits == 8)
        lows = torch.arange(total + 1, total + 1 + int(fine.sum()), device="cuda").int()
        self.planes.low_of[1 : total + 1][fine] = lows
        self.lengths = torch.full((batch,), context, device="cuda")
        self.req_bits = torch.full((batch,), bits, dtype=torch.int32, device="cuda")
        self.req_rows = torch.arange(batch, device="cuda")
        self.new = tuple(
            torch.randn(batch, count, 128, device="cuda", dtype=torch.bfloat16)
            for count in (heads * group, heads, heads)
        )
        self.out = torch.empty(batch, heads * group * 128, device="cuda", dtype=torch.bfloat16)

    def step_us(self, way: launch.DecodeWay) -> float:
        """One layer: the new token stored, and attention, in all their launches."""
        plan = launch.DecodePlan.allocate(self.batch, self.heads * self.group, self.heads, 128, "cuda", way.tuning)
        plan.fill(self.lengths, self.req_rows, self.req_bits, way.tuning)
        options: dict[str, Any] = {"plan": plan, "windows": (SINKS, RECENT), "out": self.out}
        loc = self.table[:, -1].long()

        def layer(index: int) -> Callable[[], Any]:
            return lambda: launch.step(way, self.planes.layer(index), self.new, loc, self.table, 128**-0.5, **options)

        return timed([layer(index) for index in range(LAYERS)])


def sglang_us(heads: int, group: int, context: int, dtype: torch.dtype) -> float:
    """The same by SGLang's Triton kernel, cut as SGLang cuts it."""
    from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
    from sglang.kernels.ops.attention.metadata import get_num_kv_splits_triton

    total, query_heads, splits = BATCH * context, heads * group, 8
    pairs = [
        [torch.randn(total + 1, heads, 128, device="cuda", dtype=torch.bfloat16).to(dtype) for _ in range(2)]
        for _ in range(LAYERS)
    ]
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
    rest = (out, indptr, indices, part, lse, count, splits, 128**-0.5, 1.0, 1.0)

    def layer(index: int) -> Callable[[], Any]:
        return lambda: decode_attention_fwd(query, *pairs[index], *rest)

    return timed([layer(index) for index in range(LAYERS)])


def measure(variants: Mapping[str, CudaTuning] = {}, baselines: bool = True) -> dict[str, Any]:
    """Microseconds a layer by model shape, cache and context, and what follows from them.

    `variants` are other tunings of the CUDA C++ kernel, by name, timed at 4 and 8 bits beside the default.
    """
    figures: dict[str, Any] = {"copy_gbps": copy_gbps()}
    major, minor = torch.cuda.get_device_capability()
    default = cuda_tuning_for(128, 10 * major + minor)
    for name, (heads, group) in SHAPES.items():
        ways = {"": way_of(group, default)} | {f"_{key}": way_of(group, tuning) for key, tuning in variants.items()}
        if baselines:
            ways["_without_cuda"] = launch.DecodeWay(launch.tuning_for(128))
        for context in CONTEXTS:
            row: dict[str, Any] = {}
            for bits in (4, 8):
                case = PlanesCase(heads, group, context, bits)
                row |= {f"kv{bits}{key}_us": case.step_us(way) for key, way in ways.items()}
                del case
                read = BATCH * context * bytes_per_token({"layers": 1, "kv_heads": heads, "head_dim": 128}, bits)
                if bits == 8:
                    read -= BATCH * context * heads * 8  # a low plane's scales are not read
                row[f"kv{bits}_gbps"] = round(read / row[f"kv{bits}_us"] / 1e3, 1)
                row[f"kv{bits}_part_of_copy"] = round(row[f"kv{bits}_gbps"] / figures["copy_gbps"], 3)
            if baselines:
                row["triton_us"] = sglang_us(heads, group, context, torch.bfloat16)
            figures[f"{name} {context}"] = row
            print(name, context, row, flush=True)
    return figures
