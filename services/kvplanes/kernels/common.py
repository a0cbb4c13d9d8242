"""Pieces that the kernels share: unpacking nibbles, rotating, rows in four quarters."""

# ruff: noqa: N803
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# A nibble, as the bits of an fp16 number, is that nibble times 2^-24: a subnormal, which the tensor cores multiply
# exactly. So unpacking is masking, and a power of two at the end of a sum makes it right. A nibble four bits further up
# counts 16-fold. One 32-bit word holds the units of two neighbours: two in, eight fp16 out, in 5 instructions.
UNPACK_PTX = tl.constexpr("""
{
.reg .b32 near, far;
mov.b32 near, $4;
shr.b32 far, near, 8;
and.b32 $0, near, 0x000F000F;
and.b32 $1, near, 0x00F000F0;
and.b32 $2, far, 0x000F000F;
and.b32 $3, far, 0x00F000F0;
}
""")
# Both planes of two units to eight 8-bit codes, in 8 instructions; 0xD8 takes the third operand's bits from the second.
JOIN_PTX = tl.constexpr("""
{
.reg .b32 high, low, even, odd, lower;
mov.b32 high, $4;
mov.b32 low, $5;
mov.b32 lower, 0x0F0F0F0F;
shl.b32 even, high, 4;
lop3.b32 even, even, low, lower, 0xD8;
shr.b32 odd, low, 4;
lop3.b32 odd, high, odd, lower, 0xD8;
and.b32 $0, even, 0x00FF00FF;
and.b32 $1, odd, 0x00FF00FF;
prmt.b32 $2, even, 0, 0x4341;
prmt.b32 $3, odd, 0, 0x4341;
}
""")
NIBBLE = tl.constexpr(2.0**24)  # what a nibble's fp16 number lacks


@triton.jit
def unpack(units, ASM: tl.constexpr):
    """The four nibbles of each int16 unit, as fp16 times 2^-24, 2^-20, 2^-24 and 2^-20. Shapes follow `units`."""
    if ASM:
        parts = tl.inline_asm_elementwise(
            UNPACK_PTX, "=r,=r,=r,=r,r", [units], dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True, pack=2,
        )  # fmt: skip
    else:
        far = units >> 8
        parts = (_bits(units & 0xF), _bits(units & 0xF0), _bits(far & 0xF), _bits(far & 0xF0))
    return parts


@triton.jit
def join(high, low, ASM: tl.constexpr):
    """The four 8-bit codes of each pair of int16 units, as fp16 times 2^-24. Shapes follow `high`."""
    if ASM:
        parts = tl.inline_asm_elementwise(
            JOIN_PTX, "=r,=r,=r,=r,r,r", [high, low], dtype=(tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True, pack=2,
        )  # fmt: skip
    else:
        even = ((high & 0x0F0F) << 4) | (low & 0x0F0F)
        odd = (high & ~0x0F0F) | ((low >> 4) & 0x0F0F)
        parts = (_bits(even & 0xFF), _bits(odd & 0xFF), _bits((even >> 8) & 0xFF), _bits((odd >> 8) & 0xFF))
    return parts


@triton.jit
def _bits(number):
    return number.to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def hadamard(SIZE: tl.constexpr):
    """The unscaled Hadamard matrix of size SIZE (at most 128) in fp16: (-1) to the number of bits in i & j."""
    index = tl.arange(0, SIZE)
    bits = index[:, None] & index[None, :]
    bits = bits ^ (bits >> 4)
    bits = bits ^ (bits >> 2)
    bits = bits ^ (bits >> 1)
    return (1 - 2 * (bits & 1)).to(tl.float16)


@triton.jit
def _turn(x, matrix, scale: tl.constexpr):
    """The tensor cores take fp16, so `x` goes in as its fp16 value and the rest: 22 bits in all."""
    high = x.to(tl.float16)
    rest = (x - high.to(tl.float32)).to(tl.float16)
    return (tl.dot(high, matrix) + tl.dot(rest, matrix)) * scale


@triton.jit
def rotate(x, QUARTER: tl.constexpr):
    """Rotate rows, given as four quarters (rows, QUARTER) float32, by the orthonormal Hadamard matrix of their size."""
    a, b, c, d = x
    matrix = hadamard(QUARTER)
    scale: tl.constexpr = (4 * QUARTER) ** -0.5
    near, near_apart = a + b, a - b
    far, far_apart = c + d, c - d
    return (
        _turn(near + far, matrix, scale), _turn(near_apart + far_apart, matrix, scale),
        _turn(near - far, matrix, scale), _turn(near_apart - far_apart, matrix, scale),
    )  # fmt: skip


@triton.jit
def load_quarters(source, mask, QUARTER: tl.constexpr):
    """Four quarters of a row of channels, `source` pointing at the first's; 0 where not `mask`."""
    return (
        tl.load(source, mask=mask, other=0.0), tl.load(source + QUARTER, mask=mask, other=0.0),
        tl.load(source + 2 * QUARTER, mask=mask, other=0.0), tl.load(source + 3 * QUARTER, mask=mask, other=0.0),
    )  # fmt: skip


@triton.jit
def dot_quarters(x, y):
    """The product of rows (n, 4 QUARTER) and columns (4 QUARTER, m), both given as four quarters."""
    return tl.dot(x[3], y[3], tl.dot(x[2], y[2], tl.dot(x[1], y[1], tl.dot(x[0], y[0]))))


@triton.jit
def store_quarters(target, x, mask, QUARTER: tl.constexpr):
    """Write four quarters where ``load_quarters`` would find them, in the target's dtype."""
    kind = target.dtype.element_ty
    tl.store(target, x[0].to(kind), mask=mask)
    tl.store(target + QUARTER, x[1].to(kind), mask=mask)
    tl.store(target + 2 * QUARTER, x[2].to(kind), mask=mask)
    tl.store(target + 3 * QUARTER, x[3].to(kind), mask=mask)


@triton.jit
def add_row(x, source, sign: tl.constexpr, QUARTER: tl.constexpr):
    """Four quarters of rows, each plus (or, by `sign`, minus) the same row of channels at `source` (QUARTER)."""
    return (
        x[0] + sign * tl.load(source)[None, :], x[1] + sign * tl.load(source + QUARTER)[None, :],
        x[2] + sign * tl.load(source + 2 * QUARTER)[None, :], x[3] + sign * tl.load(source + 3 * QUARTER)[None, :],
    )  # fmt: skip


@triton.jit
def scale_pair(pair):
    """Step and middle, float32, of the two fp16 numbers in an int32."""
    step = (pair & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    return step, (pair >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
