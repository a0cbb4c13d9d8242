"""Split-KV decode over planes: scores straight from nibble codes, grouped query heads, low plane only where it is.

With a key read as ``k = offset + step * code`` the score is ``q.k = offset * sum(q) + step * (q.code)``: the tensor
cores multiply codes as they are, small integers whose bits are taken for fp16 subnormals, and the scales come in once a
token. Values likewise: ``sum p v = sum (p * step) code + sum p * offset``. Rows are worked on in four quarters, since a
16-bit unit holds one channel of each (``services.kvplanes.code``).

Work items are (request, chunk of its tokens); ``plan`` cuts requests into chunks of one length so that all
multiprocessors get the same bytes, whatever the lengths in the batch.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from .common import (
    NIBBLE,
    add_row,
    dot_quarters,
    join,
    load_quarters,
    rotate,
    store_quarters,
    unpack,
)

LOG2E = tl.constexpr(1.4426950408889634)
COLUMNS = tl.constexpr(32)  # of the running sums; four warps side by side hold 8 columns each


@triton.jit
def plan_kernel(
    seq_lens, items, indptr, batch, few, target, max_items,
    BATCH: tl.constexpr, BLOCK: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Cut `batch` requests into at most `max_items` chunks, aiming at no more than `target` of them.

    A chunk costs about as much to start and to merge as 256 tokens to read, so a small batch is cut into `few` (one
    chunk a place on the GPU) and no finer, until chunks reach LONG tokens; then finer cuts even out the
    multiprocessors' load.

    seq_lens (batch) int64 -> indptr (batch + 2) int32: first item of each request, end, chunk length;
    items (max_items) int32: the request of an item, -1 past the end.
    """
    lane = tl.arange(0, BATCH)
    lens = tl.load(seq_lens + lane, mask=lane < batch, other=0).to(tl.int32)
    total = tl.sum(lens)
    chunk = tl.maximum(tl.cdiv(total, target), tl.minimum(tl.cdiv(total, few), LONG))
    chunk = tl.maximum(tl.cdiv(chunk, BLOCK), 1) * BLOCK
    counts = tl.cdiv(lens, chunk)
    ends = tl.cumsum(counts)
    tl.store(indptr + lane, ends - counts, mask=lane < batch)
    tl.store(indptr + batch, tl.sum(counts))
    tl.store(indptr + batch + 1, chunk)
    for start in range(0, max_items, 64):
        item = start + tl.arange(0, 64)
        before = tl.where((ends[None, :] <= item[:, None]) & (lane[None, :] < batch), 1, 0)
        owner = tl.sum(before, axis=1)
        tl.store(items + item, tl.where(owner < batch, owner, -1), mask=item < max_items)


@triton.jit
def _scale_pair(pair):
    """Step and middle, float32, of the two fp16 numbers in an int32."""
    step = (pair & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    return step, (pair >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def by_column(x):
    """Sums (rows, COLUMNS) of every COLUMNS-th column, all of which one thread holds: no exchange, few registers."""
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // COLUMNS, COLUMNS)), 1)


@triton.jit
def fold_tile(
    state, query, first, end, slots, low_of, codes, scales, score_scale,
    BOTH: tl.constexpr, QUARTER: tl.constexpr, BLOCK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Fold one tile of keys and values into the running softmax.

    With BOTH, `query` is as ``load_query`` gives it, and the outputs count sixteenths of a step times 2^-24. Without,
    it has been through ``for_nibbles``, and the outputs' first and third quarter count whole steps.
    """
    top, mass, outputs, constant = state
    q, query_sum = query
    out0, out1, out2, out3 = outputs
    offsets = first + tl.arange(0, BLOCK)
    valid = offsets < end
    unit = tl.arange(0, QUARTER)
    slot = tl.load(slots + offsets, mask=valid, other=0)
    step, middle = _scale_pair(tl.load(scales + slot * 2)[None, :])
    units = tl.load(codes + (slot * (2 * QUARTER))[None, :] + unit[:, None])
    if BOTH:
        low = tl.load(low_of + slot, mask=valid, other=-1)
        has_low = low >= 0
        low_units = tl.load(codes + (low * (2 * QUARTER))[None, :] + unit[:, None], mask=has_low[None, :], other=0)
        keys = join(units, low_units, ASM)
        shift = tl.where(has_low, -127.5 / 16, -7.5)
    else:
        keys = unpack(units, ASM)
        shift = tl.full([BLOCK], -7.5, tl.float32)
    score = dot_quarters(q, keys)
    whole: tl.constexpr = NIBBLE / 16 if BOTH else NIBBLE
    score = score * (step * (score_scale * whole))
    score += query_sum[:, None] * ((middle + shift[None, :] * step) * score_scale)
    score = tl.where(valid[None, :], score, float("-inf"))
    peak = tl.maximum(top, tl.max(score, 1))
    shrink = tl.exp2(top - peak)
    # 2 to the 5th keeps small weights out of fp16's subnormals; it cancels in the division by the mass.
    weight = tl.exp2(score - (peak - 5.0)[:, None])
    mass = mass * shrink[:, None] + by_column(weight)
    step, middle = _scale_pair(tl.load(scales + slot * 2 + 1)[None, :])
    constant = constant * shrink[:, None] + by_column(weight * (middle + shift[None, :] * step))
    units = tl.load(codes + (slot * (2 * QUARTER) + QUARTER)[:, None] + unit[None, :])
    if BOTH:
        low_units = tl.load(
            codes + (low * (2 * QUARTER) + QUARTER)[:, None] + unit[None, :], mask=has_low[:, None], other=0
        )
        value0, value1, value2, value3 = join(units, low_units, ASM)
    else:
        value0, value1, value2, value3 = unpack(units, ASM)
    scaled = (weight * step).to(tl.float16)
    out0 = tl.dot(scaled, value0, out0 * shrink[:, None])
    out1 = tl.dot(scaled, value1, out1 * shrink[:, None])
    out2 = tl.dot(scaled, value2, out2 * shrink[:, None])
    out3 = tl.dot(scaled, value3, out3 * shrink[:, None])
    return peak, mass, (out0, out1, out2, out3), constant


@triton.jit
def load_query(source, used, QUARTER: tl.constexpr):
    """Quarters of rotated queries at `source` (rows, QUARTER), fp16, and the sum of each one's channels (rows)."""
    q = load_quarters(source, used[:, None], QUARTER)
    # A product with ones sums the channels and leaves the sums in the layout of the scores.
    ones = tl.full([QUARTER, 16], 1.0, tl.float16)
    return q, tl.sum(dot_quarters(q, (ones, ones, ones, ones)), 1) * 0.0625


@triton.jit
def for_nibbles(query):
    """The same query for ``unpack``, whose second and fourth quarters count 16-fold."""
    q, query_sum = query
    return (q[0], (q[1] * 0.0625).to(tl.float16), q[2], (q[3] * 0.0625).to(tl.float16)), query_sum


@triton.jit
def scale_outputs(outputs, even, odd):
    """Quarters times `even` (first, third) and `odd` (second, fourth)."""
    return outputs[0] * even, outputs[1] * odd, outputs[2] * even, outputs[3] * odd


@triton.jit
def _attend_chunk(
    q, start, end, length, fine, slots, low_of, codes, scales, score_scale, sinks, recent,
    ROWS: tl.constexpr, QUARTER: tl.constexpr, BLOCK: tl.constexpr, LOW_BLOCK: tl.constexpr, FINE_BLOCK: tl.constexpr,
    ASM: tl.constexpr, STAGES: tl.constexpr, LOW_STAGES: tl.constexpr, FINE_STAGES: tl.constexpr,
):  # fmt: skip
    """Attention over tokens start to end of a request of `length`: peak, mass, and the output's quarters."""
    # A session at 8 bits reads both planes of everything. Another reads both only of its first and newest tokens, in
    # small tiles, and of all others the high plane alone.
    head_end = tl.minimum(tl.maximum(tl.cdiv(sinks, LOW_BLOCK) * LOW_BLOCK, start), end)
    fine_end = tl.where(fine, end, start)
    head_end = tl.where(fine, end, head_end)
    tail_start = tl.where(recent > 0, tl.maximum(length - recent, 0) // LOW_BLOCK * LOW_BLOCK, end)
    tail_start = tl.minimum(tl.maximum(tail_start, head_end), end)
    head_tiles = tl.cdiv(head_end - fine_end, LOW_BLOCK)
    tail_tiles = tl.cdiv(end - tail_start, LOW_BLOCK)

    wide = tl.zeros([ROWS, QUARTER], tl.float32)
    outputs = (wide, wide, wide, wide)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)  # of tokens; summed up at the end, not once a tile
    state = (tl.full([ROWS], -1.0e30, tl.float32), sums, outputs, sums)
    for tile in tl.range(0, head_tiles + tail_tiles, num_stages=LOW_STAGES):
        first = tl.where(tile < head_tiles, fine_end + tile * LOW_BLOCK, tail_start + (tile - head_tiles) * LOW_BLOCK)
        state = fold_tile(
            state, q, first, end, slots, low_of, codes, scales, score_scale, True, QUARTER, LOW_BLOCK, ASM
        )  # fmt: skip
    for first in tl.range(start, fine_end, FINE_BLOCK, num_stages=FINE_STAGES):
        state = fold_tile(
            state, q, first, end, slots, low_of, codes, scales, score_scale, True, QUARTER, FINE_BLOCK, ASM
        )  # fmt: skip
    state = (state[0], state[1], scale_outputs(state[2], 0.0625, 1.0), state[3])
    q = for_nibbles(q)
    for first in tl.range(head_end, tail_start, BLOCK, num_stages=STAGES):
        state = fold_tile(
            state, q, first, tail_start, slots, low_of, codes, scales, score_scale, False, QUARTER, BLOCK, ASM
        )  # fmt: skip
    top, mass, outputs, constant = state
    return top, tl.sum(mass, 1), tl.sum(constant, 1), scale_outputs(outputs, NIBBLE, NIBBLE / 16)


@triton.jit
def decode_kernel(
    query, codes, scales, low_of, req_to_token, req_rows, seq_lens, req_bits, items, indptr,
    part, part_lse, batch, query_stride, row_stride, code_stride, scale_stride, score_scale, sinks, recent,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, QUARTER: tl.constexpr,
    BLOCK: tl.constexpr, LOW_BLOCK: tl.constexpr, FINE_BLOCK: tl.constexpr, ASM: tl.constexpr,
    STAGES: tl.constexpr, LOW_STAGES: tl.constexpr, FINE_STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of one chunk of one request for the GROUP query heads of one KV head.

    query (batch, HEADS * GROUP, D) fp16, rotated; codes (HEADS, slots, 2, D/4) int16; scales (HEADS, slots, 2) int32,
    each two fp16; low_of (slots) int32; req_to_token (rows, context) int32; req_bits (rows) int32.
    part (items, HEADS * GROUP, D) float32 and part_lse (items, HEADS * GROUP) float32, base 2, are written.
    """
    head = tl.program_id(0)
    item = tl.program_id(1)
    request = tl.load(items + item)
    if request < 0:
        return
    chunk = tl.load(indptr + batch + 1)
    start = (item - tl.load(indptr + request)) * chunk
    length = tl.load(seq_lens + request).to(tl.int32)
    end = tl.minimum(start + chunk, length)
    row = tl.load(req_rows + request).to(tl.int64)
    fine = tl.load(req_bits + row) == 8

    member = tl.arange(0, ROWS)
    channel = tl.arange(0, QUARTER)
    used = member < GROUP
    heads = head * GROUP + member
    source = query + request.to(tl.int64) * query_stride + heads[:, None] * (4 * QUARTER) + channel[None, :]
    top, mass, constant, outputs = _attend_chunk(
        load_query(source, used, QUARTER), start, end, length, fine, req_to_token + row * row_stride, low_of,
        codes + head.to(tl.int64) * code_stride, scales + head.to(tl.int64) * scale_stride, score_scale, sinks, recent,
        ROWS, QUARTER, BLOCK, LOW_BLOCK, FINE_BLOCK, ASM, STAGES, LOW_STAGES, FINE_STAGES,
    )  # fmt: skip
    base = item * (HEADS * GROUP) + heads
    target = part + base[:, None] * (4 * QUARTER) + channel[None, :]
    out0, out1, out2, out3 = outputs
    constant, inverse = constant[:, None], (1.0 / mass)[:, None]
    outputs = (
        (out0 + constant) * inverse, (out1 + constant) * inverse,
        (out2 + constant) * inverse, (out3 + constant) * inverse,
    )  # fmt: skip
    store_quarters(target, outputs, used[:, None], QUARTER)
    tl.store(part_lse + base, top + tl.log2(mass), mask=used)


@triton.jit
def combine_kernel(
    part, part_lse, indptr, centre, out, out_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, QUARTER: tl.constexpr,
):  # fmt: skip
    """Merge a request's chunks, undo the rotation and add the values' centre.

    centre (HEADS, D) float32; out (batch, HEADS * GROUP * D) in the model's dtype.
    """
    request = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(indptr + request)
    last = tl.load(indptr + request + 1)
    member = tl.arange(0, ROWS)
    channel = tl.arange(0, QUARTER)
    used = member < GROUP
    heads = head * GROUP + member
    top = tl.full([ROWS], -1.0e30, tl.float32)
    for item in range(first, last):
        top = tl.maximum(top, tl.load(part_lse + item * (HEADS * GROUP) + heads, mask=used, other=0.0))
    mass = tl.zeros([ROWS], tl.float32)
    wide = tl.zeros([ROWS, QUARTER], tl.float32)
    out0, out1, out2, out3 = wide, wide, wide, wide
    for item in tl.range(first, last, num_stages=3):
        base = item * (HEADS * GROUP) + heads
        weight = tl.exp2(tl.load(part_lse + base, mask=used, other=0.0) - top)
        source = part + base[:, None] * (4 * QUARTER) + channel[None, :]
        mass += weight
        part0, part1, part2, part3 = load_quarters(source, used[:, None], QUARTER)
        weight = weight[:, None]
        out0, out1 = out0 + weight * part0, out1 + weight * part1
        out2, out3 = out2 + weight * part2, out3 + weight * part3
    whole = mass[:, None]
    outputs = rotate((out0 / whole, out1 / whole, out2 / whole, out3 / whole), QUARTER)
    outputs = add_row(outputs, centre + head * (4 * QUARTER) + channel, 1.0, QUARTER)
    target = out + request.to(tl.int64) * out_stride + heads[:, None] * (4 * QUARTER) + channel[None, :]
    store_quarters(target, outputs, used[:, None], QUARTER)
