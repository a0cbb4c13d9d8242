"""Every kernel gives what its PyTorch reference gives."""
# ruff: noqa: PLR0917 - parameters of a test

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="kvplanes' kernels run in SGLang's environment")
pytest.importorskip("triton", reason="kvplanes' kernels run in SGLang's environment")

from services.kvplanes import reference  # noqa: E402
from services.kvplanes.code import rotate  # noqa: E402
from services.kvplanes.kernels import launch  # noqa: E402
from services.kvplanes.layout import PlaneShape  # noqa: E402
from services.kvplanes.planes import LayerPlanes, Planes  # noqa: E402
from tests.kvplanes.cases import DEVICE, Pool, relative, rows  # noqa: E402

TOLERANCE = 2e-3  # fp16

# Triton's interpreter converts numpy arrays in a way that numpy is about to forbid.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
SHAPES = [(64, 2, 3), (64, 1, 16), (128, 1, 7), (128, 2, 1), (256, 1, 5)]


@pytest.mark.parametrize(("dim", "heads", "group"), SHAPES)
@pytest.mark.parametrize("count", [1, 35])
def test_store(dim: int, heads: int, group: int, count: int) -> None:
    pool = Pool.make(dim, heads, [count], [0.5])
    before = pool.layer
    other = LayerPlanes(before.codes.clone(), before.scales.clone(), before.low_of, before.centres)
    query, key, value = rows(count, heads * group, dim), rows(count, heads, dim, 1.0), rows(count, heads, dim)
    expected = reference.store(before, query, key, value, pool.slots[0])
    found = launch.store(other, query, key, value, pool.slots[0], keep=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert relative(mine, theirs) < TOLERANCE
    # A value on the edge between two codes may round to either.
    assert float((other.codes != before.codes).float().mean()) < 1e-3
    assert torch.allclose(other.scales.float(), before.scales.float(), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(("dim", "heads", "group"), SHAPES)
@pytest.mark.parametrize(
    ("lengths", "fine"),
    [
        ([1], [0.0]),
        ([129, 1, 300], [0.0, 1.0, 0.0]),
        ([70, 257], [0.4, 1.0]),
        ([33, 34, 35, 36, 37], [0, 1, 0.5, 0, 0]),
    ],
)
def test_decode(dim: int, heads: int, group: int, lengths: list[int], fine: list[float]) -> None:
    sinks, recent = 4, 32
    pool = Pool.make(dim, heads, lengths, fine, (sinks, recent))
    pool.fill(group)
    query = rotate(rows(len(lengths), heads * group, dim)).half()
    scale = dim**-0.5
    expected = reference.decode(pool.layer, query, pool.req_to_token, pool.req_rows, pool.lengths, scale)
    bits = torch.full((pool.req_to_token.shape[0],), 4, dtype=torch.int32, device=DEVICE)
    bits[pool.req_rows[torch.tensor(fine, device=DEVICE) > 0]] = 8
    tuning = launch.tuning_for(dim)
    plan = launch.DecodePlan.allocate(len(lengths) + 1, heads * group, heads, dim, DEVICE, tuning)
    plan.fill(pool.lengths, pool.req_rows, bits, tuning)
    out = torch.full((len(lengths), heads * group * dim), float("nan"), device=DEVICE)
    options = {"plan": plan, "windows": (sinks, recent), "out": out, "tuning": tuning}
    launch.decode(pool.layer, query, pool.req_to_token, scale, **options)
    assert relative(out.view_as(expected), expected) < TOLERANCE


@pytest.mark.parametrize(("dim", "heads", "group"), [(64, 1, 3), (128, 1, 7), (128, 2, 1), (256, 1, 2)])
@pytest.mark.parametrize(
    ("prefixes", "counts", "fine"),
    [([0], [1], [0.0]), ([0, 70, 5], [33, 1, 66], [0.0, 0.5, 1.0]), ([100], [65], [0.0])],
)
def test_extend(dim: int, heads: int, group: int, prefixes: list[int], counts: list[int], fine: list[float]) -> None:
    lengths = [prefix + count for prefix, count in zip(prefixes, counts, strict=True)]
    pool = Pool.make(dim, heads, lengths, fine)
    pool.fill(group, upto=prefixes)
    loc = torch.cat([own[prefix:] for own, prefix in zip(pool.slots, prefixes, strict=True)])
    total = len(loc)
    query, key, value = rows(total, heads * group, dim), rows(total, heads, dim, 1.0), rows(total, heads, dim)
    where = (pool.req_to_token, pool.req_rows)
    lens = (torch.tensor(prefixes, dtype=torch.int32, device=DEVICE), torch.tensor(counts, device=DEVICE))
    rotated = reference.store(copy.copy(pool.layer), query, key, value, loc)
    expected = reference.extend(pool.layer, rotated, *where, *lens, dim**-0.5)
    found = launch.store(pool.layer, query, key, value, loc, keep=True)
    out = torch.full((total, heads * group, dim), float("nan"), device=DEVICE)
    launch.extend(pool.layer, found, *where, *lens, dim**-0.5, out=out, extend_max=max(counts))
    assert relative(out, expected) < TOLERANCE


@pytest.mark.parametrize(("dim", "heads"), [(64, 2), (128, 1), (256, 1)])
@pytest.mark.parametrize(
    ("prefixes", "counts", "fine"),
    [([0], [3], [0.0]), ([0, 70, 5], [33, 1, 66], [0.0, 0.5, 1.0]), ([128], [64], [0.3])],
)
def test_gather(dim: int, heads: int, prefixes: list[int], counts: list[int], fine: list[float]) -> None:
    lengths = [prefix + count for prefix, count in zip(prefixes, counts, strict=True)]
    pool = Pool.make(dim, heads, lengths, fine)
    pool.fill(2, upto=prefixes)
    # fp16, since the interpreter cuts bf16 off; rows at a stride, as a model's projection makes them
    new = rows(sum(counts), heads * 2, dim).half().split(heads, 1)
    expected: tuple[list[Any], list[Any]] = ([], [])
    start = 0
    for own, prefix, count in zip(pool.slots, prefixes, counts, strict=True):
        for kind, old in enumerate(reference.read(pool.layer, own[:prefix])):
            expected[kind].append(rotate(old) + pool.layer.centres[kind])
            expected[kind].append(new[kind][start : start + count].float())
        start += count
    ends = torch.tensor([[0, *counts], [0, *lengths]], dtype=torch.int32, device=DEVICE).cumsum(1, dtype=torch.int32)
    lens = torch.tensor(prefixes, dtype=torch.int32, device=DEVICE)
    where = (pool.req_to_token, pool.req_rows, lens)
    found = launch.gather(pool.layer, new, *where, (ends[0], ends[1]), sum(lengths), max(lengths))
    for mine, theirs in zip(found, expected, strict=True):
        assert relative(mine, torch.cat(theirs)) < TOLERANCE


@pytest.mark.skipif(DEVICE == "cpu", reason="FlashInfer has no kernels for a CPU")
def test_dense_prefill() -> None:
    pytest.importorskip("flashinfer")
    from services.kvplanes.kernels.prefill import DensePrefill

    prefixes, counts = [0, 70, 300], [33, 1, 66]
    lengths = [prefix + count for prefix, count in zip(prefixes, counts, strict=True)]
    dense = DensePrefill(14, 2, 128, torch.float16, DEVICE)
    dense.plan(prefixes, counts)
    query, key, value = (
        rows(sum(count), heads, 128).half() for count, heads in ((counts, 14), (lengths, 2), (lengths, 2))
    )
    expected, start, kv_start = [], 0, 0
    for count, length in zip(counts, lengths, strict=True):
        keys, values = (part[kv_start : kv_start + length].float() for part in (key, value))
        expected.append(reference.attend(query[start : start + count].float(), keys, values, 128**-0.5, length - count))
        start, kv_start = start + count, kv_start + length
    assert relative(dense.run(query, key, value, 128**-0.5), torch.cat(expected)) < TOLERANCE


@pytest.mark.parametrize("few", [1, 5, 16])
@pytest.mark.parametrize("lengths", [[1, 128, 129, 4000, 7, 0, 513], [4096] * 6, [900, 900, 901, 30000], [5]])
def test_plan_covers_every_token_once(lengths: list[int], few: int) -> None:
    tuning = launch.Tuning()
    plan = launch.DecodePlan.allocate(16, 7, 1, 64, DEVICE, tuning)
    plan = dataclasses.replace(plan, few=few)
    count = len(lengths)
    bits = torch.tensor([8, 4] * 8, dtype=torch.int32, device=DEVICE)
    rows_ = torch.randperm(count, device=DEVICE)
    plan.fill(torch.tensor(lengths, device=DEVICE), rows_, bits, tuning)
    bounds, starts = plan.bounds[: few + 1].tolist(), plan.indptr[: count + 1].tolist()
    items = plan.items[: starts[-1]].tolist()
    assert bounds[0] == 0
    assert bounds[-1] == len(items), "every item is some program's"
    assert bounds == sorted(bounds)
    assert all(request == -1 for request, *_ in plan.items[starts[-1] : few + count].tolist())
    for request, length in enumerate(lengths):
        own = items[starts[request] : starts[request + 1]]
        spans = [(start, end) for _, start, end, *_ in own]
        assert [start for start, _ in spans] == [0, *(end for _, end in spans)][: len(spans)]
        assert not spans or spans[-1][1] == length
        assert all(start < end and start % 32 == 0 for start, end in spans)
        row = int(rows_[request])
        assert all(
            rest == [length, row, int(row % 2 == 0), starts[request], len(own)]
            for *_, rest in ([i[0], i[3:]] for i in own)
        )


def test_pass_low_gives_a_low_plane_to_one_heir_only() -> None:
    table = torch.randint(1, 99, (6, 60), dtype=torch.int32, device=DEVICE)
    rows_, positions = torch.tensor([4, 1, 2], device=DEVICE), torch.tensor([40, 35, 36], device=DEVICE)
    loc = torch.tensor([95, 96, 97], device=DEVICE)
    policy = torch.tensor([4, 4, 8, 4, 4, 4], dtype=torch.int32, device=DEVICE)
    low_of = torch.arange(100, dtype=torch.int32, device=DEVICE)
    expected = low_of.clone()
    reference.pass_low(expected, table, rows_, positions, loc, policy, 4, 32)
    found = low_of.clone()
    launch.pass_low(found, table, rows_, positions, loc, policy, 4, 32)
    assert torch.equal(found, expected)
    old = int(table[4, 8])
    assert int(found[95]) == old
    assert int(found[old]) == -1
    assert int(found[96]) == 96  # still too short
    assert int(found[97]) == 97  # both planes for every token

    table[1], positions[1] = table[4], 40  # two sessions that share a prefix leave the same token at once
    found = low_of.clone()
    launch.pass_low(found, table, rows_, positions, loc, policy, 4, 32)
    assert sorted(found[loc[:2]].tolist()) == [-1, old]


def test_warming_up_changes_nothing_that_a_request_reads() -> None:
    pool = Pool.make(64, 2, [40], [0.5], (4, 32))
    pool.fill(3)
    before = copy.deepcopy(pool.layer)
    policy = torch.full((pool.req_to_token.shape[0],), 4, dtype=torch.int32, device=DEVICE)
    launch.warm(pool.layer, pool.req_to_token, policy, torch.bfloat16, 6, (4, 32))
    assert torch.equal(pool.layer.low_of, before.low_of)
    assert torch.equal(pool.layer.codes[:, 1:], before.codes[:, 1:]), "slot 0 is nobody's"
    assert torch.equal(pool.layer.scales[:, 1:], before.scales[:, 1:])


def test_more_slots_than_the_kernels_count_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 16777214 slots at heads of 256, not 16777215"):
        Planes(PlaneShape(1, 1, 256), 2**24 - 1, "meta")
