"""Split-KV decode over planes: scores straight from nibble codes, grouped query heads, low plane only where it is.

With a key read as ``k = offset + step * code`` the score is ``q.k = offset * sum(q) + step * (q.code)``: codes are
small integers, exact in fp16, so the tensor cores multiply them as they are and the scales come in once a token.
Values likewise: ``sum p v = sum (p * step) code + sum p * offset``.

Work items are (request, chunk of its tokens); ``plan`` cuts requests into chunks of one length so that all
multiprocessors get the same bytes, whatever the lengths in the batch.
"""

# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl

from services.kvplanes.kernels.common import rotate_halves, unpack

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def plan_kernel(
    seq_lens, items, indptr, batch, target, max_items,
    BATCH: tl.constexpr, BLOCK: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Cut `batch` requests into at most `max_items` chunks, aiming at no more than `target` of them.

    A chunk costs about as much to start and to merge as 256 tokens to read, so a small batch is cut into a quarter of
    `target` (one chunk a multiprocessor's place) and no finer, until chunks reach LONG tokens; then finer cuts even out
    the multiprocessors' load.

    seq_lens (batch) int64 -> indptr (batch + 2) int32: first item of each request, end, chunk length;
    items (max_items) int32: the request of an item, -1 past the end.
    """
    lane = tl.arange(0, BATCH)
    lens = tl.load(seq_lens + lane, mask=lane < batch, other=0).to(tl.int32)
    total = tl.sum(lens)
    few = tl.maximum(target // 4, 1)
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
def fold_tile(
    state, query, first, end, slots, low_of, codes, scales, score_scale,
    BOTH: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Fold one tile of keys and values into the running softmax."""
    top, mass, lower, upper, constant = state
    query_lower, query_upper, query_sum = query
    offsets = first + tl.arange(0, BLOCK)
    valid = offsets < end
    channel = tl.arange(0, HALF)
    slot = tl.load(slots + offsets, mask=valid, other=0).to(tl.int64)
    pair = tl.load(scales + slot * 2)[None, :]
    step = (pair & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    middle = (pair >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    key_lower, key_upper = unpack(tl.load(codes + slot[None, :] * (2 * HALF) + channel[:, None]), ASM)
    if BOTH:
        low = tl.load(low_of + slot, mask=valid, other=-1).to(tl.int64)
        has_low = low >= 0
        fine = tl.load(codes + low[None, :] * (2 * HALF) + channel[:, None], mask=has_low[None, :], other=0)
        fine_lower, fine_upper = unpack(fine, ASM)
        key_lower = key_lower + fine_lower * 0.0625
        key_upper = key_upper + fine_upper * 0.0625
        shift = tl.where(has_low, 0.53125, 1.0)
    else:
        shift = tl.full([BLOCK], 0.5, tl.float32)
    score = tl.dot(query_lower, key_lower) + tl.dot(query_upper, key_upper)
    score = score * (step * score_scale) + query_sum[:, None] * ((middle + shift[None, :] * step) * score_scale)
    score = tl.where(valid[None, :], score, float("-inf"))
    peak = tl.maximum(top, tl.max(score, 1))
    shrink = tl.exp2(top - peak)
    # 2 to the 5th keeps small weights out of fp16's subnormals; it cancels in the division by the mass.
    weight = tl.exp2(score - (peak - 5.0)[:, None])
    mass = mass * shrink[:, None] + weight
    pair = tl.load(scales + slot * 2 + 1)[None, :]
    step = (pair & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    middle = (pair >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    constant = constant * shrink[:, None] + weight * (middle + shift[None, :] * step)
    value_lower, value_upper = unpack(tl.load(codes + slot[:, None] * (2 * HALF) + HALF + channel[None, :]), ASM)
    if BOTH:
        fine = tl.load(codes + low[:, None] * (2 * HALF) + HALF + channel[None, :], mask=has_low[:, None], other=0)
        fine_lower, fine_upper = unpack(fine, ASM)
        value_lower = value_lower + fine_lower * 0.0625
        value_upper = value_upper + fine_upper * 0.0625
    scaled = (weight * step).to(tl.float16)
    lower = lower * shrink[:, None] + tl.dot(scaled, value_lower)
    upper = upper * shrink[:, None] + tl.dot(scaled, value_upper)
    return peak, mass, lower, upper, constant


@triton.jit
def load_query(source, used, HALF: tl.constexpr):
    """Both halves of rotated queries at `source` (rows, HALF), fp16, and the sum of each one's channels (rows)."""
    lower = tl.load(source, mask=used[:, None], other=0.0)
    upper = tl.load(source + HALF, mask=used[:, None], other=0.0)
    # A product with ones sums the channels and leaves the sums in the layout of the scores.
    ones = tl.full([HALF, 16], 1.0, tl.float16)
    return lower, upper, tl.sum(tl.dot(lower, ones) + tl.dot(upper, ones), 1) * 0.0625


@triton.jit
def _attend_chunk(
    q, start, end, length, fine, slots, low_of, codes, scales, score_scale, sinks, recent,
    ROWS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, LOW_BLOCK: tl.constexpr, ASM: tl.constexpr,
    STAGES: tl.constexpr, LOW_STAGES: tl.constexpr, FINE_LOOP: tl.constexpr,
):  # fmt: skip
    """Attention over tokens start to end of a request of `length`: peak, mass, and both halves of the output."""
    # A session at 8 bits reads both planes of everything. Another reads both only of its first and newest tokens, in
    # small tiles, and of all others the high plane alone. FINE_LOOP gives 8-bit sessions a loop with large tiles.
    fine_end = start
    head_end = tl.minimum(tl.maximum(tl.cdiv(sinks, LOW_BLOCK) * LOW_BLOCK, start), end)
    if FINE_LOOP:
        fine_end = tl.where(fine, end, start)
    head_end = tl.where(fine, end, head_end)
    tail_start = tl.where(recent > 0, tl.maximum(length - recent, 0) // LOW_BLOCK * LOW_BLOCK, end)
    tail_start = tl.minimum(tl.maximum(tail_start, head_end), end)
    head_tiles = tl.cdiv(head_end - fine_end, LOW_BLOCK)
    tail_tiles = tl.cdiv(end - tail_start, LOW_BLOCK)

    wide = tl.zeros([ROWS, HALF], tl.float32)
    few = tl.zeros([ROWS, LOW_BLOCK], tl.float32)  # masses are summed over tokens at the end, not once a tile
    state = (tl.full([ROWS], -1.0e30, tl.float32), few, wide, wide, few)
    for tile in tl.range(0, head_tiles + tail_tiles, num_stages=LOW_STAGES):
        first = tl.where(tile < head_tiles, fine_end + tile * LOW_BLOCK, tail_start + (tile - head_tiles) * LOW_BLOCK)
        state = fold_tile(
            state, q, first, end, slots, low_of, codes, scales, score_scale, True, HALF, LOW_BLOCK, ASM
        )  # fmt: skip
    low_top, few, lower, upper, few_constant = state
    few, few_constant = tl.sum(few, 1), tl.sum(few_constant, 1)
    mass = tl.zeros([ROWS, BLOCK], tl.float32)
    state = (low_top, mass, lower, upper, mass)
    if FINE_LOOP:
        for first in tl.range(start, fine_end, BLOCK, num_stages=LOW_STAGES):
            state = fold_tile(
                state, q, first, end, slots, low_of, codes, scales, score_scale, True, HALF, BLOCK, ASM
            )  # fmt: skip
    for first in tl.range(head_end, tail_start, BLOCK, num_stages=STAGES):
        state = fold_tile(
            state, q, first, tail_start, slots, low_of, codes, scales, score_scale, False, HALF, BLOCK, ASM
        )  # fmt: skip
    top, mass, lower, upper, constant = state
    shrink = tl.exp2(low_top - top)
    mass, constant = tl.sum(mass, 1) + few * shrink, tl.sum(constant, 1) + few_constant * shrink
    return top, mass, (lower + constant[:, None]) / mass[:, None], (upper + constant[:, None]) / mass[:, None]


@triton.jit
def decode_kernel(
    query, codes, scales, low_of, req_to_token, req_rows, seq_lens, req_bits, items, indptr,
    part, part_lse, batch, query_stride, row_stride, code_stride, scale_stride, score_scale, sinks, recent,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr,
    BLOCK: tl.constexpr, LOW_BLOCK: tl.constexpr, ASM: tl.constexpr, STAGES: tl.constexpr, LOW_STAGES: tl.constexpr,
    FINE_LOOP: tl.constexpr,
):  # fmt: skip
    """Attention of one chunk of one request for the GROUP query heads of one KV head.

    query (batch, HEADS * GROUP, D) fp16, rotated; codes (HEADS, slots, 2, D/2) uint8; scales (HEADS, slots, 2) int32,
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
    channel = tl.arange(0, HALF)
    used = member < GROUP
    heads = head * GROUP + member
    source = query + request.to(tl.int64) * query_stride + heads[:, None] * (2 * HALF) + channel[None, :]
    q = load_query(source, used, HALF)
    top, mass, lower, upper = _attend_chunk(
        q, start, end, length, fine, req_to_token + row * row_stride, low_of,
        codes + head.to(tl.int64) * code_stride, scales + head.to(tl.int64) * scale_stride, score_scale, sinks, recent,
        ROWS, HALF, BLOCK, LOW_BLOCK, ASM, STAGES, LOW_STAGES, FINE_LOOP,
    )  # fmt: skip
    base = item * (HEADS * GROUP) + heads
    target = part + base[:, None] * (2 * HALF) + channel[None, :]
    tl.store(target, lower, mask=used[:, None])
    tl.store(target + HALF, upper, mask=used[:, None])
    tl.store(part_lse + base, top + tl.log2(mass), mask=used)


@triton.jit
def combine_kernel(
    part, part_lse, indptr, centre, out, out_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Merge a request's chunks, undo the rotation and add the values' centre.

    centre (HEADS, D) float32; out (batch, HEADS * GROUP * D) in the model's dtype.
    """
    request = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(indptr + request)
    last = tl.load(indptr + request + 1)
    member = tl.arange(0, ROWS)
    channel = tl.arange(0, HALF)
    used = member < GROUP
    heads = head * GROUP + member
    top = tl.full([ROWS], -1.0e30, tl.float32)
    for item in range(first, last):
        top = tl.maximum(top, tl.load(part_lse + item * (HEADS * GROUP) + heads, mask=used, other=0.0))
    mass = tl.zeros([ROWS], tl.float32)
    lower = tl.zeros([ROWS, HALF], tl.float32)
    upper = tl.zeros([ROWS, HALF], tl.float32)
    for item in tl.range(first, last, num_stages=3):
        base = item * (HEADS * GROUP) + heads
        weight = tl.exp2(tl.load(part_lse + base, mask=used, other=0.0) - top)
        source = part + base[:, None] * (2 * HALF) + channel[None, :]
        mass += weight
        lower += weight[:, None] * tl.load(source, mask=used[:, None], other=0.0)
        upper += weight[:, None] * tl.load(source + HALF, mask=used[:, None], other=0.0)
    lower, upper = rotate_halves(lower / mass[:, None], upper / mass[:, None], HALF)
    lower += tl.load(centre + head * (2 * HALF) + channel)[None, :]
    upper += tl.load(centre + head * (2 * HALF) + HALF + channel)[None, :]
    target = out + request.to(tl.int64) * out_stride + heads[:, None] * (2 * HALF) + channel[None, :]
    tl.store(target, lower.to(out.dtype.element_ty), mask=used[:, None])
    tl.store(target + HALF, upper.to(out.dtype.element_ty), mask=used[:, None])
