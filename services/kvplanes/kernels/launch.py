"""Launch the kernels on tensors. Same names, arguments and results as ``services.kvplanes.reference``."""

# ruff: noqa: PLR0917 - the references' signatures

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton

from .common import INTERPRETED
from .cuda import nvrtc
from .cuda.program import CudaTuning, cuda_tuning_for, supports
from .cuda.step import pass_low as cuda_pass_low
from .cuda.step import step as cuda_step
from .decode import LOG2E, combine_kernel, decode_kernel, plan_kernel
from .extend import extend_kernel
from .gather import gather_kernel
from .handover import pass_low_kernel
from .store import store_kernel

if TYPE_CHECKING:
    from ..planes import LayerPlanes

LOGGER = logging.getLogger(__name__)


class Tuning(NamedTuple):
    """How the decode kernel is cut: tokens a tile of its three loops, warps, registers, pipeline stages of the loops,
    programs that fit a multiprocessor, and how many tokens a program reads while it begins and ends an item.

    `low_*` is the loop of a 4-bit session's windows, `fine_*` that of 8-bit sessions. Chosen on an H200 among
    45 (docs/benchmarks/kvplanes.json).
    """

    block: int = 128
    warps: int = 4
    stages: int = 5
    places: int = 4
    low_block: int = 32
    low_stages: int = 2
    start_tokens: int = 256
    fine_block: int = 64
    fine_stages: int = 4
    asm: bool = not INTERPRETED
    maxnreg: int | None = 128


class ExtendTuning(NamedTuple):
    """How the extend kernel is cut: new tokens a program, tokens a tile, warps, pipeline stages."""

    rows: int = 64
    block: int = 64
    warps: int = 4
    stages: int = 1


def tuning_for(dim: int) -> Tuning:
    """The tuning for heads of `dim` channels."""
    if dim == 64:  # four warps side by side have no 16 channels to share
        return Tuning(block=64, fine_block=32, warps=1, maxnreg=168, places=12)
    return Tuning() if dim == 128 else Tuning(block=64, fine_block=64, maxnreg=168, places=3)


@dataclass(frozen=True, slots=True)
class DecodeWay:
    """How a decode step runs here: `kernel` is the build of ``decode.cu``, None where Triton's kernels serve."""

    tuning: Tuning | CudaTuning
    kernel: nvrtc.CudaKernel | None = None


def decode_way(dim: int, group: int, dtype: torch.dtype) -> DecodeWay:
    """CUDA C++ where ``decode.cu`` knows the shape and NVRTC compiles it, else Triton, with the reason in the log."""
    if not supports(dim, group, dtype):
        LOGGER.warning("kvplanes decodes with Triton: %s query heads a KV head of %s channels in %s", group, dim, dtype)
        return DecodeWay(tuning_for(dim))
    major, minor = torch.cuda.get_device_capability()
    try:
        tuning = cuda_tuning_for(dim, 10 * major + minor)
        return DecodeWay(tuning, nvrtc.load(tuning.variant(dim, group, dtype), 10 * major + minor, early=tuning.early))
    except (ImportError, ValueError, nvrtc.CudaError) as error:
        LOGGER.warning("kvplanes decodes with Triton: %s", error)
        return DecodeWay(tuning_for(dim))


@functools.lru_cache(maxsize=1)
def _handover_kernel() -> nvrtc.CudaKernel | None:
    """``handover.cu``, None where there is no GPU or NVRTC."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    try:
        return nvrtc.load_handover(10 * major + minor)
    except (ImportError, nvrtc.CudaError) as error:
        LOGGER.warning("kvplanes hands low planes over with Triton: %s", error)
        return None


@dataclass(slots=True)
class DecodePlan:
    """Buffers of one decode step, sized for `batch_max` requests and reused; CUDA graphs hold their addresses.

    items, bounds, indptr: see ``plan_kernel``; `few` programs a KV head run at once. part (items, Hq, D) and part_lse
    (items, Hq) float32 hold the chunks' outputs, done (batch_max, H) int32 how many of a request's chunks have ended.
    """

    items: torch.Tensor
    bounds: torch.Tensor
    indptr: torch.Tensor
    part: torch.Tensor
    part_lse: torch.Tensor
    done: torch.Tensor
    few: int
    batch: int = 0

    @classmethod
    def allocate(
        cls, batch_max: int, query_heads: int, kv_heads: int, dim: int, device: str, tuning: Tuning | CudaTuning
    ) -> DecodePlan:
        """Room for `batch_max` requests of `query_heads` heads of `dim` channels."""
        processors = 4
        if torch.device(device).type == "cuda":
            processors = torch.cuda.get_device_properties(device).multi_processor_count
        few = max(1, processors * tuning.places // kv_heads)
        items_max = batch_max + few
        return cls(
            items=torch.full((items_max, 8), -1, dtype=torch.int32, device=device),
            bounds=torch.zeros(few + 1, dtype=torch.int32, device=device),
            indptr=torch.zeros(batch_max + 1, dtype=torch.int32, device=device),
            part=torch.empty(items_max, query_heads, dim, dtype=torch.float32, device=device),
            part_lse=torch.empty(items_max, query_heads, dtype=torch.float32, device=device),
            done=torch.zeros(batch_max, kv_heads, dtype=torch.int32, device=device),
            few=few,
        )

    def fill(
        self, seq_lens: torch.Tensor, req_rows: torch.Tensor, req_bits: torch.Tensor, tuning: Tuning | CudaTuning
    ) -> None:
        """Share out the requests of `seq_lens` and `req_rows` (batch) int64, whose rows' bits are `req_bits` (rows)."""
        self.batch = seq_lens.shape[0]
        plan_kernel[(1,)](
            seq_lens,
            req_rows,
            req_bits,
            self.items,
            self.bounds,
            self.indptr,
            self.batch,
            self.few,
            tuning.start_tokens,
            BATCH=max(16, triton.next_power_of_2(self.batch)),
            BLOCK=tuning.block,
        )


def store(
    layer: LayerPlanes,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    loc: torch.Tensor,
    *,
    keep: bool = False,
    save: bool = True,
    rotate_query: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``reference.store``; rotated keys and values come back only with `keep`, queries with `rotate_query`. In fp16."""
    tokens, query_heads, dim = query.shape
    heads = key.shape[1]
    query_heads = query_heads if rotate_query else 0
    query_out = torch.empty((tokens, query_heads, dim), dtype=torch.float16, device=query.device)
    key_out = torch.empty(key.shape if keep else (0,), dtype=torch.float16, device=query.device)
    value_out = torch.empty_like(key_out)
    block = 16 if tokens <= 64 else 64
    store_kernel[(triton.cdiv(tokens, block), query_heads + 2 * heads)](
        query,
        key,
        value,
        query_out,
        key_out,
        value_out,
        layer.centres,
        loc,
        layer.low_of,
        layer.codes.view(torch.int16),
        layer.scales,
        tokens,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        layer.codes.stride(0) // 2,
        layer.scales.stride(0),
        QUERY_HEADS=query_heads,
        HEADS=heads,
        QUARTER=dim // 4,
        BLOCK=block,
        KEEP=keep,
        SAVE=save,
        num_warps=4,
    )
    return query_out, key_out, value_out


def decode(
    layer: LayerPlanes,
    query: torch.Tensor,
    req_to_token: torch.Tensor,
    scale: float,
    *,
    plan: DecodePlan,
    windows: tuple[int, int],
    out: torch.Tensor,
    tuning: Tuning,
) -> torch.Tensor:
    """``reference.decode`` of the requests in `plan`, into `out` (B, Hq * D).

    Low planes are read of requests at 8 bits, and of others where `windows`, sinks and newest tokens, say so.
    """
    batch, query_heads, dim = query.shape
    heads = layer.codes.shape[0]
    group = query_heads // heads
    rows = max(16, triton.next_power_of_2(group))
    shape = {"HEADS": heads, "GROUP": group, "ROWS": rows, "QUARTER": dim // 4}
    decode_kernel[(heads, batch + plan.few)](
        query,
        layer.codes.view(torch.int16),
        layer.scales.view(torch.int32),
        layer.low_of,
        req_to_token,
        plan.items,
        plan.part,
        plan.part_lse,
        query.stride(0),
        req_to_token.stride(0),
        layer.codes.stride(0) // 2,
        layer.scales.stride(0) // 2,
        scale * LOG2E.value,
        *windows,
        **shape,
        BLOCK=tuning.block,
        ASM=tuning.asm,
        LOW_BLOCK=tuning.low_block,
        STAGES=tuning.stages,
        LOW_STAGES=tuning.low_stages,
        FINE_BLOCK=tuning.fine_block,
        FINE_STAGES=tuning.fine_stages,
        num_warps=tuning.warps,
        maxnreg=tuning.maxnreg,
    )
    combine_kernel[(batch, heads)](
        plan.part, plan.part_lse, plan.indptr, layer.centres[1], out, out.stride(0), **shape, num_warps=4
    )
    return out


def step(
    way: DecodeWay,
    layer: LayerPlanes,
    new: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    loc: torch.Tensor,
    req_to_token: torch.Tensor,
    scale: float,
    *,
    plan: DecodePlan,
    windows: tuple[int, int],
    out: torch.Tensor,
    save: bool = True,
) -> torch.Tensor:
    """One new token a request: store it, then attend. One launch in CUDA C++, three in Triton.

    `new`: query (B, Hq, D), key and value (B, H, D) in the model's dtype; `loc` (B) int64; req_to_token (rows, context)
    int32; `windows`: sinks and newest tokens. Returns `out` (B, Hq * D).
    """
    if way.kernel is not None:
        stream = torch.cuda.current_stream().cuda_stream
        return cuda_step(
            way.kernel,
            layer,
            new,
            loc,
            req_to_token,
            scale,
            stream=stream,
            plan=plan,
            windows=windows,
            out=out,
            save=save,
        )
    tuning = way.tuning if isinstance(way.tuning, Tuning) else tuning_for(new[0].shape[-1])
    rotated, _, _ = store(layer, *new, loc, save=save)
    return decode(layer, rotated, req_to_token, scale, plan=plan, windows=windows, out=out, tuning=tuning)


def extend(
    layer: LayerPlanes,
    rotated: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    req_to_token: torch.Tensor,
    req_rows: torch.Tensor,
    prefix_lens: torch.Tensor,
    extend_lens: torch.Tensor,
    scale: float,
    *,
    out: torch.Tensor,
    extend_max: int,
    tuning: ExtendTuning | None = None,
) -> torch.Tensor:
    """``reference.extend`` into `out` (T, Hq, D), contiguous; `extend_max` is the largest of `extend_lens`."""
    query, key, value = rotated
    heads, dim = key.shape[1:]
    starts = torch.zeros(extend_lens.shape[0] + 1, dtype=torch.int32, device=query.device)
    torch.cumsum(extend_lens, 0, dtype=torch.int32, out=starts[1:])
    tuning = tuning or (ExtendTuning() if dim <= 128 else ExtendTuning(rows=32, block=32))
    extend_kernel[(triton.cdiv(extend_max, tuning.rows), query.shape[1], extend_lens.shape[0])](
        query,
        key,
        value,
        layer.codes.view(torch.int16),
        layer.scales.view(torch.int32),
        layer.low_of,
        req_to_token,
        req_rows,
        prefix_lens,
        starts,
        layer.centres[1],
        out,
        req_to_token.stride(0),
        layer.codes.stride(0) // 2,
        layer.scales.stride(0) // 2,
        scale * LOG2E.value,
        HEADS=heads,
        GROUP=query.shape[1] // heads,
        QUARTER=dim // 4,
        ROWS=tuning.rows,
        BLOCK=tuning.block,
        STAGES=tuning.stages,
        ASM=not INTERPRETED,
        num_warps=tuning.warps,
    )
    return out


def gather(
    layer: LayerPlanes,
    new: tuple[torch.Tensor, torch.Tensor],
    req_to_token: torch.Tensor,
    req_rows: torch.Tensor,
    prefix_lens: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    kv_tokens: int,
    kv_max: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (kv_tokens, H, D) of requests: their prefixes, read back, and behind each its `new` ones.

    `new`: key and value (T, H, D), in the dtype of the result; `starts`: first rows of the requests' new tokens and of
    all their tokens (requests + 1) int32; `kv_max` is the most tokens of a request.
    """
    key, value = new
    heads, dim = key.shape[1:]
    shape = (kv_tokens, heads, dim)
    gathered = key.new_empty(shape), value.new_empty(shape)
    block = 64 if dim <= 128 else 32
    gather_kernel[(triton.cdiv(kv_max, block), 2 * heads, prefix_lens.shape[0])](
        layer.codes.view(torch.int16),
        layer.scales.view(torch.int32),
        layer.low_of,
        req_to_token,
        req_rows,
        prefix_lens,
        starts[1],
        starts[0],
        key,
        value,
        layer.centres,
        *gathered,
        req_to_token.stride(0),
        layer.codes.stride(0) // 2,
        layer.scales.stride(0) // 2,
        key.stride(0),
        value.stride(0),
        HEADS=heads,
        QUARTER=dim // 4,
        BLOCK=block,
        ASM=not INTERPRETED,
        num_warps=4,
    )
    return gathered


def pass_low(
    low_of: torch.Tensor,
    table: torch.Tensor,
    req_rows: torch.Tensor,
    positions: torch.Tensor,
    loc: torch.Tensor,
    policy: torch.Tensor,
    sinks: int,
    recent: int,
) -> None:
    """``reference.pass_low``, one launch and no wait; in CUDA C++ where NVRTC is there."""
    where = (req_rows, positions, loc)
    kernel = _handover_kernel() if all(tensor.dtype == torch.int64 for tensor in where) else None
    if kernel is not None:
        stream = torch.cuda.current_stream().cuda_stream
        cuda_pass_low(kernel, low_of, table, where, policy, (sinks, recent), stream)
        return
    pass_low_kernel[(loc.shape[0],)](
        low_of, table, req_rows, positions, loc, policy, table.stride(0), sinks, recent, num_warps=1
    )


def warm(
    layer: LayerPlanes,
    table: torch.Tensor,
    policy: torch.Tensor,
    dtype: torch.dtype,
    query_heads: int,
    windows: tuple[int, int],
) -> None:
    """Compile and load our kernels that no captured graph holds, so that no request waits for a compiler.

    Two requests of slot 0 tokens, which padding writes to: nothing that a request reads is changed. `table` is SGLang's
    request table, `policy` (rows) int32, `dtype` the model's, `windows` the config's sinks and newest tokens.
    """
    heads, dim, device = layer.codes.shape[0], layer.codes.shape[-1] * 2, layer.codes.device
    rows = torch.zeros(1, dtype=torch.int64, device=device)
    for tokens in (1, 65):
        query, key = (torch.zeros(tokens, count, dim, dtype=dtype, device=device) for count in (query_heads, heads))
        loc = torch.zeros(tokens, dtype=torch.int64, device=device)
        lens = torch.tensor([tokens], dtype=torch.int32, device=device)
        store(layer, query, key, key, loc)
        store(layer, query, key, key, loc, rotate_query=False)
        rotated = store(layer, query, key, key, loc, keep=True)
        extend(
            layer,
            rotated,
            table,
            rows,
            torch.ones_like(lens),
            lens,
            1.0,
            out=torch.empty_like(query),
            extend_max=tokens,
        )
        ends = torch.tensor([[0, tokens], [0, tokens + 1]], dtype=torch.int32, device=device)
        gather(layer, (key, key), table, rows, torch.ones_like(lens), (ends[0], ends[1]), tokens + 1, tokens + 1)
    pass_low(layer.low_of, table, rows, rows, rows, policy, *windows)
