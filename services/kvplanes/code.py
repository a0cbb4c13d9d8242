"""The code of a key or value: rotate, then 8 bits split into two nibbles. Plain PyTorch, for any device.

For one token and head, with x its D channels (a power of two), c a fixed centre and H the Hadamard matrix:

    r = (x - c) H / sqrt(D)
    S = 16 (max r - min r) / 255          the step of the high nibble, fp16
    m = (max r + min r) / 2               the middle, fp16
    code = round(16 (r - m) / S + 127.5)  in 0..255
    both nibbles:     r ~ m + S (code - 127.5) / 16
    high nibble only: r ~ m + S (code // 16 - 7.5)

The second reading is the middle of the 16 codes that share the high nibble, so the low nibble can be dropped at any
time. A plane is D/4 *units* of two bytes; unit u holds the channels u, u + D/4, u + D/2 and u + 3D/4, from its lowest
nibble up. So a kernel unpacks four contiguous quarters, and never interleaves: the tensor cores want neighbours of a
quarter in one 32-bit word, and two units lie in one, whether neighbours are channels (keys) or tokens (values).
"""

from __future__ import annotations

import functools

import torch

SCALE_MARGIN = 1.0 + 2.0**-10  # fp16 rounds S down by at most half of this; the extreme codes must stay in range
SCALE_FLOOR = 2.0**-14  # the smallest normal fp16; a constant row has no range


@functools.lru_cache(maxsize=16)
def hadamard(size: int, device: str = "cpu") -> torch.Tensor:
    """The orthonormal Hadamard matrix, (size, size) float32; symmetric, its own inverse."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"a Hadamard matrix here has a power of two as size, not {size}")
    matrix = torch.ones(1, 1, dtype=torch.float32)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return (matrix / size**0.5).to(device)


def rotate(x: torch.Tensor) -> torch.Tensor:
    """`x` (..., D) in float32, rotated by the Hadamard matrix. Applying it twice gives `x` back."""
    return x.float() @ hadamard(x.shape[-1], str(x.device))


def quantize(rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (..., D) uint8 and scales (..., 2) fp16, step and middle, of `rotated` (..., D) float32."""
    low, high = rotated.amin(-1), rotated.amax(-1)
    step = ((high - low) * (16.0 / 255.0 * SCALE_MARGIN)).clamp_min(SCALE_FLOOR).half()
    middle = ((high + low) * 0.5).half()
    code = (rotated - middle.float()[..., None]) * (16.0 / step.float()[..., None]) + 127.5
    return code.round().clamp(0, 255).to(torch.uint8), torch.stack((step, middle), -1)


def split(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low plane, each (..., D/2) uint8, of `codes` (..., D)."""
    high, low = codes >> 4, codes & 0xF
    return _pack(high), _pack(low)


def dequantize(high: torch.Tensor, low: torch.Tensor, has_low: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Rotated values (..., D) float32 from planes (..., D/2) uint8, `has_low` (...) bool and scales (..., 2) fp16."""
    step, middle = scales.float().unbind(-1)
    step = step / 16.0
    # Without a low plane the lower nibble reads as 8 of codes that then lie half a step higher: the middle, 7.5.
    low = torch.where(has_low[..., None], low, torch.full((), 0x88, dtype=torch.uint8, device=low.device))
    codes = (_unpack(high) << 4) | _unpack(low)
    offset = middle - step * torch.where(has_low, 127.5, 128.0)
    return codes.float().mul_(step[..., None]).add_(offset[..., None])


def _pack(nibbles: torch.Tensor) -> torch.Tensor:
    """Units (..., D/2) uint8 of one nibble a channel (..., D)."""
    first, second, third, fourth = nibbles.chunk(4, -1)
    return torch.stack((first | (second << 4), third | (fourth << 4)), -1).flatten(-2)


def _unpack(plane: torch.Tensor) -> torch.Tensor:
    """The nibbles (..., D) of units (..., D/2) uint8."""
    near, far = plane.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat((near & 0xF, near >> 4, far & 0xF, far >> 4), -1)
