"""Every kernel gives what its PyTorch reference gives."""
# ruff: noqa: PLR0917 - parameters of a test

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="kvplanes' kernels run in SGLang's environment")
pytest.importorskip("triton", reason="kvplanes' kernels run in SGLang's environment")

from services.kvplanes import reference  # noqa: E402
from services.kvplanes.code import rotate  # noqa: E402
from services.kvplanes.kernels import launch  # noqa: E402
from services.kvplanes.layout import Shape  # noqa: E402
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
    plan.fill(pool.lengths, tuning)
    out = torch.full((len(lengths), heads * group * dim), float("nan"), device=DEVICE)
    launch.decode(
        pool.layer,
        query,
        pool.req_to_token,
        pool.req_rows,
        pool.lengths,
        scale,
        plan=plan,
        req_bits=bits,
        sinks=sinks,
        recent=recent,
        out=out,
        tuning=tuning,
    )
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


def test_plan_covers_every_token_once() -> None:
    lengths = [1, 128, 129, 4000, 7, 0, 513]
    tuning = launch.Tuning()
    plan = launch.DecodePlan.allocate(16, 7, 1, 64, DEVICE, tuning)
    plan.fill(torch.tensor(lengths, device=DEVICE), tuning)
    *starts, chunk = plan.indptr[: len(lengths) + 2].tolist()
    assert chunk % tuning.block == 0
    owners = plan.items.tolist()
    for request, length in enumerate(lengths):
        items = range(starts[request], starts[request + 1])
        assert len(items) == -(-length // chunk)
        assert all(owners[item] == request for item in items)
    assert all(owner == -1 for owner in owners[starts[-1] :])


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
        Planes(Shape(1, 1, 256), 2**24 - 1, "meta")
