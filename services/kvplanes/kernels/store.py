"""Rotate queries, and rotate, quantize and store keys and values: one launch a layer.

The grid's second axis runs over query heads, then KV heads for keys, then KV heads for values.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from .common import add_row, load_quarters, rotate, store_quarters


@triton.jit
def _code(x, shift, inverse):
    # Codes are positive, so adding a half and cutting rounds them.
    code = ((x - shift[:, None]) * inverse[:, None] + 128.0).to(tl.int32)
    return tl.minimum(tl.maximum(code, 0), 255)


@triton.jit
def _quantize(x):
    """Codes of four quarters (rows, QUARTER) int32, step and middle (rows) fp16; see ``services.kvplanes.code``."""
    high = tl.max(tl.maximum(tl.maximum(x[0], x[1]), tl.maximum(x[2], x[3])), 1)
    low = tl.min(tl.minimum(tl.minimum(x[0], x[1]), tl.minimum(x[2], x[3])), 1)
    step = tl.maximum((high - low) * (16.0 / 255.0 * (1.0 + 1.0 / 1024.0)), 1.0 / 16384.0).to(tl.float16)
    middle = ((high + low) * 0.5).to(tl.float16)
    inverse = 16.0 / step.to(tl.float32)
    shift = middle.to(tl.float32)
    return (
        _code(x[0], shift, inverse), _code(x[1], shift, inverse),
        _code(x[2], shift, inverse), _code(x[3], shift, inverse), step, middle,
    )  # fmt: skip


@triton.jit
def _load(source, valid, QUARTER: tl.constexpr):
    x0, x1, x2, x3 = load_quarters(source, valid[:, None], QUARTER)
    return x0.to(tl.float32), x1.to(tl.float32), x2.to(tl.float32), x3.to(tl.float32)


@triton.jit
def _pack(n0, n1, n2, n3):
    """Four nibbles (rows, QUARTER) int32 to a unit each, int16."""
    return (n0 | (n1 << 4) | (n2 << 8) | (n3 << 12)).to(tl.int16)


# Slots come at any offset and prompts in any length: a kernel for each would be compiled while a request waits.
@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=["loc"])
def store_kernel(
    query, key, value, query_out, key_out, value_out, centres, loc, low_of, codes, scales,
    tokens, query_stride, key_stride, value_stride, code_stride, scale_stride,
    QUERY_HEADS: tl.constexpr, HEADS: tl.constexpr, QUARTER: tl.constexpr, BLOCK: tl.constexpr,
    KEEP: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """query (tokens, QUERY_HEADS * D), key and value (tokens, HEADS * D) in the model's dtype, row strides given.

    Written: query_out (tokens, QUERY_HEADS, D) fp16 rotated; with SAVE the planes at `loc` (tokens) int64 and, where
    low_of[loc] names one, the low plane; with KEEP key_out and value_out (tokens, HEADS, D) fp16, centred and rotated.
    centres (2, HEADS, D) float32; codes (HEADS, slots, 2, D/4) int16; scales (HEADS, slots, 2, 2) fp16.
    """
    lane = tl.program_id(1)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = token < tokens
    row = token.to(tl.int64)[:, None]
    channel = tl.arange(0, QUARTER)
    if lane < QUERY_HEADS:
        source = query + row * query_stride + lane * (4 * QUARTER) + channel[None, :]
        turned = rotate(_load(source, valid, QUARTER), QUARTER)
        target = query_out + (row * QUERY_HEADS + lane) * (4 * QUARTER) + channel[None, :]
        store_quarters(target, turned, valid[:, None], QUARTER)
    else:
        kind = (lane - QUERY_HEADS) // HEADS
        head = (lane - QUERY_HEADS) % HEADS
        stride = tl.where(kind == 0, key_stride, value_stride)
        source = tl.where(kind == 0, key, value) + row * stride + head * (4 * QUARTER) + channel[None, :]
        centre = centres + (kind * HEADS + head) * (4 * QUARTER) + channel
        turned = rotate(add_row(_load(source, valid, QUARTER), centre, -1.0, QUARTER), QUARTER)
        if KEEP:
            target = tl.where(kind == 0, key_out, value_out) + (row * HEADS + head) * (4 * QUARTER) + channel[None, :]
            store_quarters(target, turned, valid[:, None], QUARTER)
        if SAVE:
            c0, c1, c2, c3, step, middle = _quantize(turned)
            slot = tl.load(loc + token, mask=valid, other=0).to(tl.int64)
            low = tl.load(low_of + slot, mask=valid, other=-1).to(tl.int64)
            codes += head.to(tl.int64) * code_stride + kind * QUARTER
            packed = _pack(c0 >> 4, c1 >> 4, c2 >> 4, c3 >> 4)
            tl.store(codes + slot[:, None] * (2 * QUARTER) + channel[None, :], packed, mask=valid[:, None])
            packed = _pack(c0 & 0xF, c1 & 0xF, c2 & 0xF, c3 & 0xF)
            has_low = valid & (low >= 0)
            tl.store(codes + low[:, None] * (2 * QUARTER) + channel[None, :], packed, mask=has_low[:, None])
            place = scales + head.to(tl.int64) * scale_stride + slot * 4 + kind * 2
            tl.store(place, step, mask=valid)
            tl.store(place + 1, middle, mask=valid)
