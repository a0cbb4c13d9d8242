"""Prefill of new tokens over a quantized prefix and over their own keys and values, which are still exact.

Everything is rotated, so prefix and new tokens meet in one space; the values' rotation is undone once, at the end.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from services.kvplanes.kernels.common import rotate_halves
from services.kvplanes.kernels.decode import fold_tile, load_query


@triton.jit
def extend_kernel(
    query, key, value, codes, scales, low_of, req_to_token, req_rows, prefix_lens, starts, centre, out,
    row_stride, code_stride, scale_stride, score_scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """ROWS new tokens of one request for one query head.

    query (tokens, HEADS * GROUP, D), key and value (tokens, HEADS, D): fp16, rotated, the latter two centred; request r
    owns tokens starts[r] to starts[r + 1] (int32). Planes as in ``decode_kernel``; prefix_lens (requests) int32.
    centre (HEADS, D) float32; out (tokens, HEADS * GROUP, D) in the model's dtype.
    """
    request = tl.program_id(2)
    lane = tl.program_id(1)
    head = lane // GROUP
    begin = tl.load(starts + request)
    count = tl.load(starts + request + 1) - begin
    first = tl.program_id(0) * ROWS
    if first >= count:
        return
    prefix = tl.load(prefix_lens + request).to(tl.int32)
    slots = req_to_token + tl.load(req_rows + request).to(tl.int64) * row_stride
    head_codes = codes + head.to(tl.int64) * code_stride
    head_scales = scales + head.to(tl.int64) * scale_stride

    row = first + tl.arange(0, ROWS)
    used = row < count
    channel = tl.arange(0, HALF)
    token = (begin + row).to(tl.int64)
    place = (token[:, None] * (HEADS * GROUP) + lane) * (2 * HALF) + channel[None, :]
    query_lower, query_upper, query_sum = load_query(query + place, used, HALF)
    q = (query_lower, query_upper, query_sum)

    wide = tl.zeros([ROWS, HALF], tl.float32)
    mass = tl.zeros([ROWS, BLOCK], tl.float32)
    state = (tl.full([ROWS], -1.0e30, tl.float32), mass, wide, wide, mass)
    for start in tl.range(0, prefix, BLOCK, num_stages=1):
        state = fold_tile(
            state, q, start, prefix, slots, low_of, head_codes, head_scales, score_scale, True, HALF, BLOCK, ASM
        )  # fmt: skip

    top, mass, lower, upper, constant = state
    for start in tl.range(0, tl.minimum(first + ROWS, count), BLOCK, num_stages=1):
        column = start + tl.arange(0, BLOCK)
        valid = column < count
        source = ((begin + column).to(tl.int64) * HEADS + head) * (2 * HALF)
        key_lower = tl.load(key + source[None, :] + channel[:, None], mask=valid[None, :], other=0.0)
        key_upper = tl.load(key + source[None, :] + HALF + channel[:, None], mask=valid[None, :], other=0.0)
        score = (tl.dot(query_lower, key_lower) + tl.dot(query_upper, key_upper)) * score_scale
        score = tl.where(column[None, :] <= row[:, None], score, float("-inf"))
        peak = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp2(top - peak)
        weight = tl.exp2(score - peak[:, None] + 5.0)
        mass = mass * shrink[:, None] + weight
        constant = constant * shrink[:, None]
        value_lower = tl.load(value + source[:, None] + channel[None, :], mask=valid[:, None], other=0.0)
        value_upper = tl.load(value + source[:, None] + HALF + channel[None, :], mask=valid[:, None], other=0.0)
        lower = lower * shrink[:, None] + tl.dot(weight.to(tl.float16), value_lower)
        upper = upper * shrink[:, None] + tl.dot(weight.to(tl.float16), value_upper)
        top = peak

    total = tl.sum(mass, 1)[:, None]
    shift = tl.sum(constant, 1)[:, None]
    lower, upper = rotate_halves((lower + shift) / total, (upper + shift) / total, HALF)
    lower += tl.load(centre + head * (2 * HALF) + channel)[None, :]
    upper += tl.load(centre + head * (2 * HALF) + HALF + channel)[None, :]
    tl.store(out + place, lower.to(out.dtype.element_ty), mask=used[:, None])
    tl.store(out + place + HALF, upper.to(out.dtype.element_ty), mask=used[:, None])
