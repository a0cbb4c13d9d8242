"""Launch the kernels on tensors. Same names, arguments and results as ``services.kvplanes.reference``."""

# ruff: noqa: PLR0917 - the references' signatures

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton

from .common import INTERPRETED
from .decode import LOG2E, combine_kernel, decode_kernel, plan_kernel
from .extend import extend_kernel
from .handover import pass_low_kernel
from .store import store_kernel

if TYPE_CHECKING:
    from ..planes import LayerPlanes


class Tuning(NamedTuple):
    """How the decode kernel is cut: tokens a tile of its three loops, warps, registers, pipeline stages of the loops,
    programs that fit a multiprocessor, chunks a multiprocessor at most, and tokens a chunk before more chunks are made
    than there are places on the GPU.

    `low_*` is the loop of a 4-bit session's windows, `fine_*` that of 8-bit sessions. Chosen on an H200 among
    45 (docs/benchmarks/kvplanes.json).
    """

    block: int = 128
    warps: int = 4
    stages: int = 5
    places: int = 4
    waves: int = 16
    low_block: int = 32
    low_stages: int = 2
    long_chunk: int = 4096
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
        return Tuning(block=64, fine_block=32, warps=1, maxnreg=168, places=12, waves=24)
    return Tuning() if dim == 128 else Tuning(block=64, fine_block=64, maxnreg=168, places=3, waves=12)


@dataclass(slots=True)
class DecodePlan:
    """Buffers of one decode step, sized for `batch_max` requests and reused; CUDA graphs hold their addresses."""

    items: torch.Tensor
    indptr: torch.Tensor
    part: torch.Tensor
    part_lse: torch.Tensor
    few: int
    target: int
    batch: int = 0

    @classmethod
    def allocate(
        cls, batch_max: int, query_heads: int, kv_heads: int, dim: int, device: str, tuning: Tuning
    ) -> DecodePlan:
        """Room for `batch_max` requests of `query_heads` heads of `dim` channels."""
        processors = 4
        if torch.device(device).type == "cuda":
            processors = torch.cuda.get_device_properties(device).multi_processor_count
        target = max(1, processors * tuning.waves // kv_heads)
        items_max = batch_max + target
        return cls(
            items=torch.full((items_max,), -1, dtype=torch.int32, device=device),
            indptr=torch.zeros(batch_max + 2, dtype=torch.int32, device=device),
            part=torch.empty(items_max, query_heads, dim, dtype=torch.float32, device=device),
            part_lse=torch.empty(items_max, query_heads, dtype=torch.float32, device=device),
            few=max(1, processors * tuning.places // kv_heads),
            target=target,
        )

    def fill(self, seq_lens: torch.Tensor, tuning: Tuning) -> None:
        """Cut the requests of `seq_lens` (batch) int64 into chunks."""
        self.batch = seq_lens.shape[0]
        plan_kernel[(1,)](
            seq_lens,
            self.items,
            self.indptr,
            self.batch,
            self.few,
            self.target,
            self.batch + self.target,
            BATCH=max(16, triton.next_power_of_2(self.batch)),
            BLOCK=tuning.block,
            LONG=tuning.long_chunk,
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``reference.store``; rotated keys and values come back only with `keep`. Results in fp16."""
    tokens, query_heads, dim = query.shape
    heads = key.shape[1]
    query_out = torch.empty(query.shape, dtype=torch.float16, device=query.device)
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
    req_rows: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    *,
    plan: DecodePlan,
    req_bits: torch.Tensor,
    sinks: int,
    recent: int,
    out: torch.Tensor,
    tuning: Tuning,
) -> torch.Tensor:
    """``reference.decode`` into `out` (B, Hq * D), low planes read only where `req_bits` and the windows say."""
    batch, query_heads, dim = query.shape
    heads = layer.codes.shape[0]
    group = query_heads // heads
    rows = max(16, triton.next_power_of_2(group))
    shape = {"HEADS": heads, "GROUP": group, "ROWS": rows, "QUARTER": dim // 4}
    decode_kernel[(heads, batch + plan.target)](
        query,
        layer.codes.view(torch.int16),
        layer.scales.view(torch.int32),
        layer.low_of,
        req_to_token,
        req_rows,
        seq_lens,
        req_bits,
        plan.items,
        plan.indptr,
        plan.part,
        plan.part_lse,
        batch,
        query.stride(0),
        req_to_token.stride(0),
        layer.codes.stride(0) // 2,
        layer.scales.stride(0) // 2,
        scale * LOG2E.value,
        sinks,
        recent,
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
    """``reference.pass_low``, one launch and no wait."""
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
    pass_low(layer.low_of, table, rows, rows, rows, policy, *windows)
