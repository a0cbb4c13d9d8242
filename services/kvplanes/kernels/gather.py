"""Read a quantized prefix back into plain keys and values, its new tokens' behind it, for a dense attention kernel.

A prefill multiplies every key by thousands of queries, so to read the prefix back once costs little, and the kernels
that were made for prefill do the rest.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from .common import NIBBLE, add_row, join, load_quarters, rotate, scale_pair, store_quarters


@triton.jit
def _read_back(codes, scales, low_of, slot, valid, kind, QUARTER: tl.constexpr, ASM: tl.constexpr):
    """Rotated and centred rows (tokens, QUARTER) float32, four quarters, of keys (`kind` 0) or values (1)."""
    low = tl.load(low_of + slot, mask=valid, other=-1)
    has_low = low >= 0
    unit = kind * QUARTER + tl.arange(0, QUARTER)
    high_units = tl.load(codes + (slot * (2 * QUARTER))[:, None] + unit[None, :])
    low_units = tl.load(codes + (low * (2 * QUARTER))[:, None] + unit[None, :], mask=has_low[:, None], other=0)
    c0, c1, c2, c3 = join(high_units, low_units, ASM)
    step, middle = scale_pair(tl.load(scales + slot * 2 + kind))
    offset = (middle + tl.where(has_low, -127.5 / 16, -7.5) * step)[:, None]
    step = (step * (NIBBLE / 16))[:, None]
    return (
        c0.to(tl.float32) * step + offset, c1.to(tl.float32) * step + offset,
        c2.to(tl.float32) * step + offset, c3.to(tl.float32) * step + offset,
    )  # fmt: skip


# Prompts come in any length: a kernel for each would be compiled while a request waits.
@triton.jit
def gather_kernel(
    codes, scales, low_of, req_to_token, req_rows, prefix_lens, kv_starts, starts, key, value, centres,
    key_out, value_out, row_stride, code_stride, scale_stride, key_stride, value_stride,
    HEADS: tl.constexpr, QUARTER: tl.constexpr, BLOCK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """BLOCK tokens of one request, the keys (first HEADS of the second axis) or the values of one head.

    Planes as in ``decode_kernel``. Request r has prefix_lens[r] (int32) cached tokens and the new ones starts[r] to
    starts[r + 1] (int32) of key and value (tokens, HEADS * D), row strides given; its rows in key_out and value_out
    (tokens, HEADS, D), all in the model's dtype, are kv_starts[r] to kv_starts[r + 1] (int32).
    centres (2, HEADS, D) float32.
    """
    request = tl.program_id(2)
    kind = tl.program_id(1) // HEADS
    head = tl.program_id(1) % HEADS
    begin = tl.load(kv_starts + request)
    count = tl.load(kv_starts + request + 1) - begin
    first = tl.program_id(0) * BLOCK
    if first >= count:
        return
    prefix = tl.load(prefix_lens + request).to(tl.int32)
    position = first + tl.arange(0, BLOCK)
    channel = tl.arange(0, QUARTER)
    target = tl.where(kind == 0, key_out, value_out)
    target += ((begin + position).to(tl.int64) * HEADS + head)[:, None] * (4 * QUARTER) + channel[None, :]
    if first < prefix:
        old = position < prefix
        slots = req_to_token + tl.load(req_rows + request).to(tl.int64) * row_stride
        slot = tl.load(slots + position, mask=old, other=0)
        head_codes, head_scales = codes + head.to(tl.int64) * code_stride, scales + head.to(tl.int64) * scale_stride
        rows = rotate(_read_back(head_codes, head_scales, low_of, slot, old, kind, QUARTER, ASM), QUARTER)
        rows = add_row(rows, centres + (kind * HEADS + head) * (4 * QUARTER) + channel, 1.0, QUARTER)
        store_quarters(target, rows, old[:, None], QUARTER)
    if first + BLOCK > prefix:
        new = (position >= prefix) & (position < count)
        row = (tl.load(starts + request) + position - prefix).to(tl.int64)
        source = tl.where(kind == 0, key, value) + (row * tl.where(kind == 0, key_stride, value_stride))[:, None]
        source += head * (4 * QUARTER) + channel[None, :]
        store_quarters(target, load_quarters(source, new[:, None], QUARTER), new[:, None], QUARTER)
