"""The code of keys and values."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="kvplanes' code runs in SGLang's environment")

from services.kvplanes.code import dequantize, hadamard, quantize, rotate, split  # noqa: E402


@pytest.mark.parametrize("size", [1, 2, 64, 128, 256])
def test_hadamard_undoes_itself(size: int) -> None:
    matrix = hadamard(size)
    assert torch.allclose(matrix @ matrix, torch.eye(size), atol=1e-5)
    assert torch.equal(matrix, matrix.T)


def test_rotation_keeps_scores() -> None:
    query, key = torch.randn(5, 64), torch.randn(7, 64)
    assert torch.allclose(rotate(query) @ rotate(key).T, query @ key.T, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_errors_stay_within_half_a_step(scale: float) -> None:
    torch.manual_seed(1)
    x = torch.randn(50, 3, 128) * scale
    codes, scales = quantize(x)
    high, low = split(codes)
    yes = torch.ones(x.shape[:-1], dtype=torch.bool)
    step = scales[..., :1].float()
    fine, coarse = dequantize(high, low, yes, scales), dequantize(high, low, ~yes, scales)
    assert bool(((fine - x).abs() <= step / 32 * 1.01 + 1e-6).all())
    assert bool(((coarse - x).abs() <= step / 2 * 1.01 + 1e-6).all())


def test_a_high_nibble_reads_as_the_middle_of_its_codes() -> None:
    scales = torch.tensor([[16.0, 0.0]]).half()
    every = torch.arange(256, dtype=torch.uint8).view(1, 256)
    high, low = split(every)
    coarse = dequantize(high, low, torch.zeros(1, dtype=torch.bool), scales)[0]
    fine = dequantize(high, low, torch.ones(1, dtype=torch.bool), scales)[0]
    assert torch.equal(fine, torch.arange(256) - 127.5)
    assert torch.equal(coarse, fine.view(16, 16).mean(1).repeat_interleave(16))


def test_a_constant_row_comes_back() -> None:
    x = torch.full((1, 64), 3.25)
    codes, scales = quantize(x)
    high, low = split(codes)
    assert torch.allclose(dequantize(high, low, torch.ones(1, dtype=torch.bool), scales), x, atol=1e-4)


def test_sizes_that_are_no_power_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match="96"):
        hadamard(96)
