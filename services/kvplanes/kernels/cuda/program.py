"""What ``decode.cu`` is compiled with and called with. No CUDA here: the tests run the same source on a CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch

SOURCE = Path(__file__).with_name("decode.cu")
HANDOVER_SOURCE = Path(__file__).with_name("handover.cu")
HANDOVER_THREADS = 128
GROUP_MAX = 8  # query heads a KV head: the columns of one product
RING_BYTES_EXTRA = 32 * 8  # scales of a stage


class Variant(NamedTuple):
    """One build of ``decode.cu``: channels a head, query heads a KV head, the model's dtype, warps a program, stages of
    each warp's ring, programs that fit a multiprocessor, and whether rings and sums lie apart in shared memory."""

    dim: int
    group: int
    bf16: bool
    warps: int
    stages: int
    places: int
    apart: bool = False

    def macros(self) -> list[str]:
        """Definitions for a compiler's command line."""
        names = {"DIM": self.dim, "GROUP": self.group, "MODEL_BF16": int(self.bf16), "WARPS": self.warps}
        names |= {"STAGES": self.stages, "PLACES": self.places, "APART": int(self.apart)}
        return [f"-D{name}={value}" for name, value in names.items()]

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program; ``decode.cu`` lays it out."""
        ring = self.warps * self.stages * (32 * self.dim + RING_BYTES_EXTRA)
        merge = self.warps * 8 * (self.dim + 4) * 4
        work = ring + merge if self.apart else max(ring, merge)
        return work + 32 * self.dim + RING_BYTES_EXTRA + 8 * (self.dim + 8) * 2 + self.warps * 3 * 8 * 4 + 16


class CudaTuning(NamedTuple):
    """How ``decode.cu`` is built and its work cut: warps a program, stages of a warp's ring, programs that fit a
    multiprocessor, tokens that chunks are multiples of, and how many tokens a program reads in the time that beginning
    and ending an item takes. With `early`, the launch does not wait for the last kernel's end (Hopper and later); with
    `apart`, an item is on its way while the last one is merged, which takes more shared memory."""

    warps: int = 16
    stages: int = 2
    places: int = 1
    block: int = 128
    start_tokens: int = 1024
    early: bool = True
    apart: bool = True

    def variant(self, dim: int, group: int, dtype: torch.dtype) -> Variant:
        """The build for heads of `dim` channels, `group` query heads a KV head, in a model of `dtype`."""
        return Variant(dim, group, dtype == torch.bfloat16, self.warps, self.stages, self.places, self.apart)


# By compute capability, from the newest down, and by channels a head. Measured (docs/benchmarks/kvplanes.json): 9.0, an
# H200, with heads of 128. All others are derived: from a multiprocessor's shared memory (227, 163 and 99 KiB) and the
# registers that the compiler reports, 100, 128 and 200 a thread.
SMALL = {64: CudaTuning(8, 2, 1, apart=False), 256: CudaTuning(4, 2, 1, start_tokens=256, apart=False)}
TUNINGS: tuple[tuple[int, dict[int, CudaTuning]], ...] = (
    (120, SMALL | {128: CudaTuning(8, 2, 1, start_tokens=512, apart=False)}),
    (90, {64: CudaTuning(), 128: CudaTuning(), 256: CudaTuning(8, 2, 1, start_tokens=512)}),
    (86, SMALL | {128: CudaTuning(8, 2, 1, start_tokens=512, apart=False)}),
    (80, {dim: CudaTuning(8, 2, 1 if dim == 256 else 2, start_tokens=512, apart=False) for dim in (64, 128, 256)}),
)


def cuda_tuning_for(dim: int, capability: int) -> CudaTuning:
    """The tuning for heads of `dim` channels on GPUs of `capability` (90: Hopper).

    Raises ValueError for GPUs before Ampere, which lack asynchronous copies.
    """
    for first, tunings in TUNINGS:
        if capability >= first:
            return tunings[dim]
    raise ValueError(f"decode.cu needs compute capability 8.0, not {capability / 10}")


class Arguments(ctypes.Structure):
    """``struct Arguments`` of ``decode.cu``, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "out", "loc", "codes", "scales", "low_of")),
        *((name, ctypes.c_void_p) for name in ("table", "items", "bounds")),
        *((name, ctypes.c_void_p) for name in ("part", "part_lse", "done", "centres")),
        *((f"{name}_stride", ctypes.c_int64) for name in ("query", "key", "value", "out", "row", "code", "scale")),
        ("score_scale", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("heads", "sinks", "recent", "save")),
    )


class HandoverArguments(ctypes.Structure):
    """``struct Handover`` of ``handover.cu``, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("low_of", "table", "rows", "positions", "loc", "policy")),
        ("row_stride", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("count", "sinks", "recent")),
    )


def supports(dim: int, group: int, dtype: torch.dtype) -> bool:
    """Whether ``decode.cu`` knows heads of `dim` channels, `group` of them a KV head, in a model of `dtype`."""
    return dim in (64, 128, 256) and group <= GROUP_MAX and dtype in (torch.float16, torch.bfloat16)
