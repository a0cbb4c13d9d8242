"""Pieces that the kernels share: unpacking nibbles, rotating halves, launch helpers."""

# ruff: noqa: N803
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Four bytes in, eight fp16 out, in 10 instructions. 0x6400 is 1024.0 in fp16, so a nibble or-ed into its mantissa is
# 1024 + nibble; a nibble four bits further up counts 16-fold, which the multiply-add undoes.
UNPACK_PTX = tl.constexpr("""
{
.reg .b32 t, u, a, b, c, d, one, sixteenth, near, far;
mov.b32 near, 0xE408E408;
mov.b32 far, 0xD480D480;
mov.b32 one, 0x3C003C00;
mov.b32 sixteenth, 0x2C002C00;
prmt.b32 t, $4, $4, 0x3120;
shr.b32 u, t, 8;
lop3.b32 a, t, 0x000F000F, 0x64006400, 0xEA;
lop3.b32 b, u, 0x000F000F, 0x64006400, 0xEA;
lop3.b32 c, t, 0x00F000F0, 0x64006400, 0xEA;
lop3.b32 d, u, 0x00F000F0, 0x64006400, 0xEA;
fma.rn.f16x2 $0, a, one, near;
fma.rn.f16x2 $1, b, one, near;
fma.rn.f16x2 $2, c, sixteenth, far;
fma.rn.f16x2 $3, d, sixteenth, far;
}
""")


@triton.jit
def unpack(packed, ASM: tl.constexpr):
    """Lower and upper nibble of each byte, minus 8, in fp16. Shapes follow `packed`."""
    if ASM:
        lower, upper = tl.inline_asm_elementwise(
            UNPACK_PTX, "=r,=r,=r,=r,r", [packed], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    else:
        word = packed.to(tl.int16)
        lower = ((word & 0xF) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
        upper = ((word >> 4) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    return lower, upper


@triton.jit
def hadamard_half(HALF: tl.constexpr):
    """The unscaled Hadamard matrix of size HALF (at most 128) in fp16: (-1) to the number of bits in i & j."""
    index = tl.arange(0, HALF)
    bits = index[:, None] & index[None, :]
    bits = bits ^ (bits >> 4)
    bits = bits ^ (bits >> 2)
    bits = bits ^ (bits >> 1)
    return (1 - 2 * (bits & 1)).to(tl.float16)


@triton.jit
def rotate_halves(first, second, HALF: tl.constexpr):
    """Rotate rows given as two halves (rows, HALF) float32 by the orthonormal Hadamard matrix of size 2 HALF.

    The tensor cores take fp16, so each operand goes in as its fp16 value and the rest: 22 bits in all.
    """
    matrix = hadamard_half(HALF)
    total = first + second
    difference = first - second
    total_high = total.to(tl.float16)
    total_rest = (total - total_high.to(tl.float32)).to(tl.float16)
    difference_high = difference.to(tl.float16)
    difference_rest = (difference - difference_high.to(tl.float32)).to(tl.float16)
    scale: tl.constexpr = (2 * HALF) ** -0.5
    lower = (tl.dot(total_high, matrix) + tl.dot(total_rest, matrix)) * scale
    upper = (tl.dot(difference_high, matrix) + tl.dot(difference_rest, matrix)) * scale
    return lower, upper
