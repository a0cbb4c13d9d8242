"""Prefill of new tokens over a quantized prefix and over their own keys and values, which are still exact.

Everything is rotated, so prefix and new tokens meet in one space; the values' rotation is undone once, at the end.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from .common import NIBBLE, add_row, dot_quarters, load_quarters, rotate, store_quarters
from .decode import COLUMNS, by_column, fold_tile, load_query, scale_outputs


@triton.jit
def extend_kernel(
    query, key, value, codes, scales, low_of, req_to_token, req_rows, prefix_lens, starts, centre, out,
    row_stride, code_stride, scale_stride, score_scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, QUARTER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ASM: tl.constexpr, STAGES: tl.constexpr,
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
    channel = tl.arange(0, QUARTER)
    token = (begin + row).to(tl.int64)
    place = (token[:, None] * (HEADS * GROUP) + lane) * (4 * QUARTER) + channel[None, :]
    q = load_query(query + place, used, QUARTER)

    wide = tl.zeros([ROWS, QUARTER], tl.float32)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    state = (tl.full([ROWS], -1.0e30, tl.float32), sums, (wide, wide, wide, wide), sums)
    for start in tl.range(0, prefix, BLOCK, num_stages=STAGES):
        state = fold_tile(
            state, q, start, prefix, slots, low_of, head_codes, head_scales, score_scale, True, QUARTER, BLOCK, ASM
        )  # fmt: skip

    top, mass, outputs, constant = state
    out0, out1, out2, out3 = scale_outputs(outputs, NIBBLE / 16, NIBBLE / 16)
    for start in tl.range(0, tl.minimum(first + ROWS, count), BLOCK, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK)
        valid = column < count
        source = ((begin + column).to(tl.int64) * HEADS + head) * (4 * QUARTER)
        keys = load_quarters(key + source[None, :] + channel[:, None], valid[None, :], QUARTER)
        score = dot_quarters(q[0], keys) * score_scale
        score = tl.where(column[None, :] <= row[:, None], score, float("-inf"))
        peak = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp2(top - peak)
        weight = tl.exp2(score - peak[:, None] + 5.0)
        mass = mass * shrink[:, None] + by_column(weight)
        constant = constant * shrink[:, None]
        place_v = value + source[:, None] + channel[None, :]
        value0, value1, value2, value3 = load_quarters(place_v, valid[:, None], QUARTER)
        weight, shrink = weight.to(tl.float16), shrink[:, None]
        out0, out1 = tl.dot(weight, value0, out0 * shrink), tl.dot(weight, value1, out1 * shrink)
        out2, out3 = tl.dot(weight, value2, out2 * shrink), tl.dot(weight, value3, out3 * shrink)
        top = peak

    whole = tl.sum(mass, 1)[:, None]
    shift = tl.sum(constant, 1)[:, None]
    outputs = ((out0 + shift) / whole, (out1 + shift) / whole, (out2 + shift) / whole, (out3 + shift) / whole)
    outputs = add_row(rotate(outputs, QUARTER), centre + head * (4 * QUARTER) + channel, 1.0, QUARTER)
    store_quarters(out + place, outputs, used[:, None], QUARTER)
