"""Call ``decode.cu`` and ``handover.cu`` on tensors."""

# ruff: noqa: PLR0917 - the references' signatures

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .program import HANDOVER_THREADS, Arguments, HandoverArguments

if TYPE_CHECKING:
    from ...planes import LayerPlanes

LOG2E = 1.4426950408889634


class Kernel(Protocol):
    """A build of CUDA C++ that can be run."""

    def launch(self, arguments: ctypes.Structure, programs: int, stream: int) -> None:
        """Run `programs` on the CUDA `stream`."""


def step(
    kernel: Kernel,
    layer: LayerPlanes,
    new: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    loc: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    *,
    plan: Any,
    windows: tuple[int, int],
    out: torch.Tensor,
    save: bool = True,
    stream: int = 0,
) -> torch.Tensor:
    """``reference.store`` of one new token a request, then ``reference.decode``, into `out` (B, Hq * D).

    `new`: query (B, Hq, D), key and value (B, H, D) in the model's dtype, rows at any stride; `loc` (B) int64 their
    slots; `table` (rows, context) int32 the requests' slots, as in `plan`. `windows`: sinks and newest tokens.
    Raises TypeError for slots of another dtype.
    """
    query, key, value = new
    if loc.dtype != torch.int64:
        raise TypeError(f"slots must be int64, not {loc.dtype}")
    heads = layer.codes.shape[0]
    arguments = Arguments(
        *(tensor.data_ptr() for tensor in (query, key, value, out, loc, layer.codes, layer.scales, layer.low_of)),
        *(tensor.data_ptr() for tensor in (table, plan.items, plan.bounds)),
        *(tensor.data_ptr() for tensor in (plan.part, plan.part_lse, plan.done, layer.centres)),
        *(tensor.stride(0) for tensor in (query, key, value, out, table)),
        layer.codes.stride(0),
        layer.scales.stride(0) * layer.scales.element_size(),
        scale * LOG2E,
        heads,
        *windows,
        int(save),
    )
    kernel.launch(arguments, heads * plan.few, stream)
    return out


def pass_low(
    kernel: Kernel,
    low_of: torch.Tensor,
    table: torch.Tensor,
    where: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    policy: torch.Tensor,
    windows: tuple[int, int],
    stream: int = 0,
) -> None:
    """``reference.pass_low`` for requests whose rows, positions and new slots (count) int64 are `where`."""
    count = where[0].shape[0]
    pointers = (tensor.data_ptr() for tensor in (low_of, table, *where, policy))
    arguments = HandoverArguments(*pointers, table.stride(0), count, *windows)
    kernel.launch(arguments, -(-count // HANDOVER_THREADS), stream)
