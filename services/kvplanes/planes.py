"""The pool's memory: codes and scales of every layer, the table of low planes, the centres."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .layout import SCALES_PER_HEAD, PlaneShape

SLOT_UNITS_MAX = 2**31 - 1  # kernels find a slot's 16-bit units by a 32-bit number


@dataclass(frozen=True, slots=True)
class LayerPlanes:
    """One layer's view of the planes.

    codes (H, slots, 2, D/2) uint8: K and V units of a slot side by side, one cache line at D = 128.
    scales (H, slots, 2, 2) fp16: step and middle of K, of V. Head by head, so that tokens that were stored together
    are read together. low_of (slots) int32: the slot of a token's low nibbles, -1 for none; shared by all layers.
    centres (2, H, D) float32: what is subtracted from keys and values before they are rotated.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    low_of: torch.Tensor
    centres: torch.Tensor


class Planes:
    """`size` slots (and slot 0, where padded tokens write) of a model of `shape` on `device`.

    Raises ValueError for more slots than the kernels count.
    """

    def __init__(self, shape: PlaneShape, size: int, device: str) -> None:
        most = SLOT_UNITS_MAX // (shape.head_dim // 2) - 1
        if size > most:
            raise ValueError(f"kvplanes holds at most {most} slots at heads of {shape.head_dim}, not {size}")
        self.shape, self.size, self.device = shape, size, device
        heads, dim, slots = shape.kv_heads, shape.head_dim, size + 1
        self.codes = [
            torch.zeros(heads, slots, 2, dim // 2, dtype=torch.uint8, device=device) for _ in range(shape.layers)
        ]
        self.scales = [
            torch.zeros(heads, slots, SCALES_PER_HEAD // 2, 2, dtype=torch.float16, device=device)
            for _ in range(shape.layers)
        ]
        self.low_of = torch.full((slots,), -1, dtype=torch.int32, device=device)
        self.centres = torch.zeros(shape.layers, 2, heads, dim, dtype=torch.float32, device=device)

    def layer(self, index: int) -> LayerPlanes:
        """The planes of layer `index`."""
        return LayerPlanes(self.codes[index], self.scales[index], self.low_of, self.centres[index])

    def calibrate(self, index: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Fix layer `index`'s centres at the mean of `key` and `value` (T, H, D).

        Only right while no token is stored: a key keeps the centre that it was stored with.
        """
        self.centres[index, 0] = key.float().mean(0)
        self.centres[index, 1] = value.float().mean(0)

    def move(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy whole slots `source` (n) to `target` (n), both int64, in every layer, low planes' owners included."""
        for codes, scales in zip(self.codes, self.scales, strict=True):
            codes[:, target] = codes[:, source]
            scales[:, target] = scales[:, source]
        self.low_of[target] = self.low_of[source]
        self.low_of[source] = -1

    @property
    def byte_size(self) -> int:
        """Bytes of codes and scales."""
        return sum(part.nbytes for part in (*self.codes, *self.scales))
