"""Split-KV decode over planes: scores straight from nibble codes, grouped query heads, low plane only where it is.

With a key read as ``k = offset + step * code`` the score is ``q.k = offset * sum(q) + step * (q.code)``: the tensor
cores multiply codes as they are, small integers whose bits are taken for fp16 subnormals, and the scales come in once a
token. Values likewise: ``sum p v = sum (p * step) code + sum p * offset``. Rows are worked on in four quarters, since a
16-bit unit holds one channel of each (``services.kvplanes.code``).

Work items are (request, chunk of its tokens); ``plan_kernel`` cuts requests so that all multiprocessors get the same
bytes, whatever the lengths in the batch.
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
    scale_pair,
    store_quarters,
    unpack,
)

LOG2E = tl.constexpr(1.4426950408889634)
COLUMNS = tl.constexpr(32)  # of the running sums; four warps side by side hold 8 columns each


@triton.jit
def _of_owner(x, lane, owner):
    """x (BATCH) at each of `owner` (items), 0 past the end."""
    return tl.sum(tl.where(lane[None, :] == owner[:, None], x[None, :], 0), axis=1)


@triton.jit(do_not_specialize=["batch"])
def plan_kernel(
    seq_lens, req_rows, req_bits, items, bounds, indptr, batch, few, start_tokens,
    BATCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Share `batch` requests out among `few` programs, so that all read as many bytes; a token at 8 bits counts twice.

    Laid end to end, the requests are cut where a program's share ends: a chunk of a request, or all of it, is an item.
    Beginning and ending an item takes as long as reading `start_tokens`. So requests of about one length are shared out
    whole, and nobody has to merge.

    seq_lens, req_rows (batch) int64, req_bits (rows) int32 -> items (few + batch, 8) int32: request (-1: none), first
    token, end, the request's length, row, whether it is at 8 bits, its first item, its items; bounds (few + 1) int32:
    the first item of each program; indptr (batch + 1) int32: the first item of each request.
    """
    lane = tl.arange(0, BATCH)
    valid = lane < batch
    lens = tl.load(seq_lens + lane, mask=valid, other=0).to(tl.int32)
    rows = tl.load(req_rows + lane, mask=valid, other=0).to(tl.int32)
    fine = (tl.load(req_bits + rows, mask=valid, other=4) == 8).to(tl.int32)
    size = tl.cdiv(lens * (1 + fine), BLOCK) * BLOCK
    longest = tl.max(size)
    share = tl.cdiv(tl.cdiv(tl.sum(size), few), BLOCK) * BLOCK
    share = tl.maximum(share, tl.cdiv(start_tokens // 4, BLOCK) * BLOCK)
    each = tl.cdiv(batch, few)
    whole = each * (longest + start_tokens) <= share + (1 + each) * start_tokens + start_tokens // 2
    size = tl.where(whole & (size > 0), longest, size)
    share = tl.where(whole, each * longest, share)
    share = tl.maximum(share, BLOCK)
    ends = tl.cumsum(size)
    first = (ends - size) // share
    counts = tl.where(size > 0, (ends - 1) // share - first + 1, 0)
    item_ends = tl.cumsum(counts)
    tl.store(indptr + lane, item_ends - counts, mask=valid)
    tl.store(indptr + batch, tl.sum(counts))
    for start in range(0, few + 1, 32):
        program = start + tl.arange(0, 32)
        before = tl.minimum(tl.maximum(program[:, None] - first[None, :], 0), counts[None, :])
        tl.store(bounds + program, tl.sum(before, axis=1), mask=program <= few)
    for start in range(0, few + batch, 32):
        item = start + tl.arange(0, 32)
        owner = tl.sum(tl.where((item_ends[None, :] <= item[:, None]) & valid[None, :], 1, 0), axis=1)
        first_item = _of_owner(item_ends - counts, lane, owner)
        begin = _of_owner(ends - size, lane, owner)
        weight = 1 + _of_owner(fine, lane, owner)
        length = _of_owner(lens, lane, owner)
        own = (_of_owner(first, lane, owner) + item - first_item) * share
        stop = tl.minimum(own + share - begin, _of_owner(size, lane, owner)) // weight
        record = items + item * 8
        used = item < few + batch
        tl.store(record, tl.where(owner < batch, owner, -1), mask=used)
        tl.store(record + 1, tl.maximum(own - begin, 0) // weight, mask=used)
        tl.store(record + 2, tl.minimum(stop, length), mask=used)
        tl.store(record + 3, length, mask=used)
        tl.store(record + 4, _of_owner(rows, lane, owner), mask=used)
        tl.store(record + 5, weight - 1, mask=used)
        tl.store(record + 6, first_item, mask=used)
        tl.store(record + 7, _of_owner(counts, lane, owner), mask=used)


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
    step, middle = scale_pair(tl.load(scales + slot * 2)[None, :])
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
    step, middle = scale_pair(tl.load(scales + slot * 2 + 1)[None, :])
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
    query, codes, scales, low_of, req_to_token, items,
    part, part_lse, query_stride, row_stride, code_stride, scale_stride, score_scale, sinks, recent,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, QUARTER: tl.constexpr,
    BLOCK: tl.constexpr, LOW_BLOCK: tl.constexpr, FINE_BLOCK: tl.constexpr, ASM: tl.constexpr,
    STAGES: tl.constexpr, LOW_STAGES: tl.constexpr, FINE_STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of one chunk of one request for the GROUP query heads of one KV head.

    query (batch, HEADS * GROUP, D) fp16, rotated; codes (HEADS, slots, 2, D/4) int16; scales (HEADS, slots, 2) int32,
    each two fp16; low_of (slots) int32; req_to_token (rows, context) int32; items: see ``plan_kernel``.
    part (items, HEADS * GROUP, D) float32 and part_lse (items, HEADS * GROUP) float32, base 2, are written.
    """
    head = tl.program_id(0)
    item = tl.program_id(1)
    request = tl.load(items + item * 8)
    if request < 0:
        return
    start = tl.load(items + item * 8 + 1)
    end = tl.load(items + item * 8 + 2)
    length = tl.load(items + item * 8 + 3)
    row = tl.load(items + item * 8 + 4).to(tl.int64)
    fine = tl.load(items + item * 8 + 5) == 1

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
