"""``decode.cu`` gives what the PyTorch reference gives: on the GPU where there is one, else built for the CPU."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="kvplanes' kernels run in SGLang's environment")
pytest.importorskip("triton", reason="kvplanes' kernels run in SGLang's environment")

from services.kvplanes import reference  # noqa: E402
from services.kvplanes.kernels import launch  # noqa: E402
from services.kvplanes.kernels.cuda.program import CudaTuning, Variant  # noqa: E402
from services.kvplanes.kernels.cuda.step import pass_low, step  # noqa: E402
from tests.kvplanes.cases import DEVICE, Pool, relative, rows  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
    pytest.mark.skipif(DEVICE == "cpu" and shutil.which("g++") is None, reason="no C++ compiler"),
]
SINKS, RECENT = 4, 32
LENGTHS = [
    ([1], [0.0]),
    ([129, 1, 300], [0.0, 1.0, 0.0]),
    ([70, 257], [0.4, 1.0]),
    ([33, 34, 35, 36, 37], [0, 1, 0.5, 0, 0]),
    ([900, 20], [0.0, 1.0]),
]


def kernel_for(variant: Variant) -> Any:
    """The build of `variant` that runs here."""
    if DEVICE == "cpu":
        from tests.kvplanes.emulated import emulated

        return emulated(variant)
    from services.kvplanes.kernels.cuda.nvrtc import load

    major, minor = torch.cuda.get_device_capability()
    return load(variant, 10 * major + minor)


def run_step(
    variant: Variant, heads: int, lengths: list[int], fine: list[float], start_tokens: int = 0
) -> tuple[float, float, float]:
    """Relative error of a step's outputs, the share of codes that differ, and the largest difference of scales."""
    dim, group = variant.dim, variant.group
    pool = Pool.make(dim, heads, lengths, fine, (SINKS, RECENT))
    pool.fill(group, upto=[length - 1 for length in lengths])
    dtype = torch.bfloat16 if variant.bf16 else torch.float16
    count = len(lengths)
    qkv = rows(count, heads * (group + 2), dim).to(dtype)  # one matrix, as a model's projection makes it
    new = qkv.split((heads * group, heads, heads), 1)
    loc = torch.stack([own[-1] for own in pool.slots])
    expected_layer, found_layer = copy.deepcopy(pool.layer), copy.deepcopy(pool.layer)
    query, key, value = new
    query, _, _ = reference.store(expected_layer, query, key, value, loc)
    expected = reference.decode(expected_layer, query, pool.req_to_token, pool.req_rows, pool.lengths, dim**-0.5)
    bits = torch.full((pool.req_to_token.shape[0],), 4, dtype=torch.int32, device=DEVICE)
    bits[pool.req_rows[torch.tensor(fine, device=DEVICE) > 0]] = 8
    tuning = CudaTuning(variant.warps, variant.stages, variant.places, start_tokens=start_tokens, apart=variant.apart)
    plan = launch.DecodePlan.allocate(count + 1, heads * group, heads, dim, DEVICE, tuning)
    plan.fill(pool.lengths, pool.req_rows, bits, tuning)
    out = torch.full((count, heads * group * dim), float("nan"), device=DEVICE, dtype=dtype)
    options: dict[str, Any] = {"plan": plan, "windows": (SINKS, RECENT), "out": out}
    if DEVICE == "cuda":
        options["stream"] = torch.cuda.current_stream().cuda_stream
    step(kernel_for(variant), found_layer, new, loc, pool.req_to_token, dim**-0.5, **options)
    assert not plan.done.any(), "the next step counts anew"
    codes = float((found_layer.codes != expected_layer.codes).float().mean())
    scales = float((found_layer.scales.float() - expected_layer.scales.float()).abs().max())
    return relative(out.view_as(expected), expected), codes, scales


@pytest.mark.parametrize(("lengths", "fine"), LENGTHS)
@pytest.mark.parametrize("start_tokens", [0, 10_000], ids=["cut", "whole"])
def test_a_step_of_heads_of_128(lengths: list[int], fine: list[float], start_tokens: int) -> None:
    error, codes, scales = run_step(Variant(128, 7, True, 4, 3, 1, start_tokens == 0), 2, lengths, fine, start_tokens)
    assert error < 3e-3  # bf16 outputs
    assert codes < 1e-3
    assert scales < 1e-3


OTHERS = [
    Variant(128, 7, True, 16, 2, 1, True),
    Variant(128, 8, False, 8, 3, 2),
    Variant(128, 1, True, 4, 2, 4),
    Variant(128, 5, False, 4, 4, 3),
    Variant(64, 3, True, 4, 3, 4),
    Variant(64, 8, False, 2, 4, 4),
    Variant(256, 4, True, 4, 2, 1, True),
    Variant(256, 7, False, 4, 2, 2),
]


@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_a_step_of_other_builds(variant: Variant) -> None:
    error, codes, scales = run_step(variant, 1, [70, 290, 1], [0.5, 0.0, 1.0])
    assert error < (3e-3 if variant.bf16 else 1e-3)
    assert codes < 2e-3
    assert scales < 1e-3


def test_the_host_counts_shared_memory_as_the_source_does() -> None:
    if DEVICE == "cuda":
        pytest.skip("counted in the emulator")
    for variant in (Variant(128, 7, True, 16, 2, 1, True), OTHERS[2]):
        assert kernel_for(variant).shared_bytes == variant.shared_bytes


def test_handover_gives_a_low_plane_to_one_heir_only() -> None:
    if DEVICE == "cuda":
        kernel: Any = launch._handover_kernel()
    else:
        from tests.kvplanes.emulated import emulated_handover

        kernel = emulated_handover()
    table = torch.randint(1, 99, (140, 60), dtype=torch.int32, device=DEVICE)
    where = (
        torch.arange(130, device=DEVICE),
        torch.full((130,), 40, device=DEVICE),
        torch.arange(100, 230, device=DEVICE),
    )
    where[1][::3] = 35  # still too short
    policy = torch.full((140,), 4, dtype=torch.int32, device=DEVICE)
    policy[::5] = 8  # both planes for every token
    low_of = torch.arange(1000, 1230, dtype=torch.int32, device=DEVICE)
    stream = torch.cuda.current_stream().cuda_stream if DEVICE == "cuda" else 0
    found = low_of.clone()
    pass_low(kernel, found, table, where, policy, (4, 32), stream)
    leaving = [int(table[row, 8]) if row % 3 and row % 5 else 0 for row in range(130)]
    for old in set(leaving) - {0}:
        heirs = [100 + row for row in range(130) if leaving[row] == old]
        assert sorted(int(found[heir]) for heir in heirs) == [-1] * (len(heirs) - 1) + [1000 + old]
        assert int(found[old]) == -1
    untouched = [slot for slot in range(230) if slot not in leaving and not (slot >= 100 and leaving[slot - 100])]
    assert torch.equal(found[untouched], low_of[untouched])
