"""Pools with tokens at mixed precisions, for the kernels' tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.kvplanes import reference
from services.kvplanes.layout import PlaneShape
from services.kvplanes.planes import LayerPlanes, Planes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of `expected`; NaN where anything is NaN."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def rows(count: int, heads: int, dim: int, shift: float = 0.0) -> torch.Tensor:
    """Random bf16 (count, heads, dim), as a model would hand them over."""
    return (torch.randn(count, heads, dim, device=DEVICE) * 1.5 + shift).bfloat16()


@dataclass
class Pool:
    """One layer's planes with the tokens of some requests in scattered slots."""

    layer: LayerPlanes
    req_to_token: torch.Tensor
    req_rows: torch.Tensor
    lengths: torch.Tensor
    slots: list[torch.Tensor]

    @classmethod
    def make(
        cls, dim: int, heads: int, lengths: list[int], fine: list[float], windows: tuple[int, int] = (0, 0)
    ) -> Pool:
        """Requests of `lengths` tokens; a share `fine` of each one's tokens, and the `windows`, own a low plane."""
        torch.manual_seed(sum(lengths) * dim + heads)
        total = sum(lengths)
        planes = Planes(PlaneShape(1, heads, dim), 2 * total + 3, DEVICE)
        planes.centres.normal_()
        layer = planes.layer(0)
        order = torch.randperm(2 * total + 3, device=DEVICE) + 1
        lows = iter(order[total:].split(1))
        table = torch.zeros(len(lengths) + 2, max(lengths) + 7, dtype=torch.int32, device=DEVICE)
        req_rows = torch.randperm(len(lengths) + 2, device=DEVICE)[: len(lengths)]
        slots = list(order[:total].split(lengths))
        for row, own, share in zip(req_rows.tolist(), slots, fine, strict=True):
            table[row, : len(own)] = own.int()
            position = torch.arange(len(own), device=DEVICE)
            keeps = torch.rand(len(own), device=DEVICE) < share
            keeps |= (position < windows[0]) | (position >= len(own) - windows[1])
            for slot in own[keeps].tolist():
                layer.low_of[slot] = next(lows).int()
        return cls(layer, table, req_rows, torch.tensor(lengths, device=DEVICE), slots)

    def fill(self, group: int, upto: list[int] | None = None) -> None:
        """Store random keys and values in each request's first `upto` tokens, all where it is None."""
        counts = upto if upto is not None else self.lengths.tolist()
        loc = torch.cat([own[:count] for own, count in zip(self.slots, counts, strict=True)])
        heads, dim = self.layer.codes.shape[0], self.layer.codes.shape[-1] * 2
        if len(loc):
            query = rows(len(loc), heads * group, dim)
            reference.store(self.layer, query, rows(len(loc), heads, dim, 1.0), rows(len(loc), heads, dim), loc)
