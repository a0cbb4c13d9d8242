"""Rotate queries, and rotate, quantize and store keys and values: one launch a layer.

The grid's second axis runs over query heads, then KV heads for keys, then KV heads for values.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from services.kvplanes.kernels.common import rotate_halves


@triton.jit
def _quantize(lower, upper):
    """Codes of both halves (rows, HALF) int32 and the step and middle (rows) fp16; see ``services.kvplanes.code``."""
    high = tl.maximum(tl.max(lower, 1), tl.max(upper, 1))
    low = tl.minimum(tl.min(lower, 1), tl.min(upper, 1))
    step = tl.maximum((high - low) * (16.0 / 255.0 * (1.0 + 1.0 / 1024.0)), 1.0 / 16384.0).to(tl.float16)
    middle = ((high + low) * 0.5).to(tl.float16)
    inverse = 16.0 / step.to(tl.float32)
    shift = middle.to(tl.float32)
    # Codes are positive, so adding a half and cutting rounds them.
    first = ((lower - shift[:, None]) * inverse[:, None] + 128.0).to(tl.int32)
    second = ((upper - shift[:, None]) * inverse[:, None] + 128.0).to(tl.int32)
    return tl.minimum(tl.maximum(first, 0), 255), tl.minimum(tl.maximum(second, 0), 255), step, middle


# Slots come at any offset and prompts in any length: a kernel for each would be compiled while a request waits.
@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=["loc"])
def store_kernel(
    query, key, value, query_out, key_out, value_out, centres, loc, low_of, codes, scales,
    tokens, query_stride, key_stride, value_stride, code_stride, scale_stride,
    QUERY_HEADS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    KEEP: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """query (tokens, QUERY_HEADS * D), key and value (tokens, HEADS * D) in the model's dtype, row strides given.

    Written: query_out (tokens, QUERY_HEADS, D) fp16 rotated; with SAVE the planes at `loc` (tokens) int64 and, where
    low_of[loc] names one, the low plane; with KEEP key_out and value_out (tokens, HEADS, D) fp16, centred and rotated.
    centres (2, HEADS, D) float32; codes (HEADS, slots, 2, D/2) uint8; scales (HEADS, slots, 2, 2) fp16.
    """
    lane = tl.program_id(1)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = token < tokens
    row = token.to(tl.int64)[:, None]
    channel = tl.arange(0, HALF)
    if lane < QUERY_HEADS:
        source = query + row * query_stride + lane * (2 * HALF) + channel[None, :]
        lower = tl.load(source, mask=valid[:, None], other=0.0).to(tl.float32)
        upper = tl.load(source + HALF, mask=valid[:, None], other=0.0).to(tl.float32)
        lower, upper = rotate_halves(lower, upper, HALF)
        target = query_out + (row * QUERY_HEADS + lane) * (2 * HALF) + channel[None, :]
        tl.store(target, lower.to(tl.float16), mask=valid[:, None])
        tl.store(target + HALF, upper.to(tl.float16), mask=valid[:, None])
    else:
        kind = (lane - QUERY_HEADS) // HEADS
        head = (lane - QUERY_HEADS) % HEADS
        stride = tl.where(kind == 0, key_stride, value_stride)
        source = tl.where(kind == 0, key, value) + row * stride + head * (2 * HALF) + channel[None, :]
        centre = centres + (kind * HEADS + head) * (2 * HALF) + channel
        lower = tl.load(source, mask=valid[:, None], other=0.0).to(tl.float32) - tl.load(centre)[None, :]
        upper = tl.load(source + HALF, mask=valid[:, None], other=0.0).to(tl.float32) - tl.load(centre + HALF)[None, :]
        lower, upper = rotate_halves(lower, upper, HALF)
        if KEEP:
            target = tl.where(kind == 0, key_out, value_out) + (row * HEADS + head) * (2 * HALF) + channel[None, :]
            tl.store(target, lower.to(tl.float16), mask=valid[:, None])
            tl.store(target + HALF, upper.to(tl.float16), mask=valid[:, None])
        if SAVE:
            first, second, step, middle = _quantize(lower, upper)
            slot = tl.load(loc + token, mask=valid, other=0).to(tl.int64)
            low = tl.load(low_of + slot, mask=valid, other=-1).to(tl.int64)
            codes += head.to(tl.int64) * code_stride + kind * HALF
            packed = ((first >> 4) | (second & 0xF0)).to(tl.uint8)
            tl.store(codes + slot[:, None] * (2 * HALF) + channel[None, :], packed, mask=valid[:, None])
            packed = ((first & 0xF) | ((second & 0xF) << 4)).to(tl.uint8)
            has_low = valid & (low >= 0)
            tl.store(codes + low[:, None] * (2 * HALF) + channel[None, :], packed, mask=has_low[:, None])
            place = scales + head.to(tl.int64) * scale_stride + slot * 4 + kind * 2
            tl.store(place, step, mask=valid)
            tl.store(place + 1, middle, mask=valid)
