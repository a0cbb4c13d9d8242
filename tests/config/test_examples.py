"""The examples load, and fit on the cards that they are written for."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config.schema import load
from services.model_files.shape import ModelShape
from services.planner.plan import plan, settled
from services.planner.words import refusal

ROOT = Path(__file__).parents[2]

# From each model's own config.json: layers, KV heads, bytes of its 4-bit weights. Head size 128 throughout.
SHAPES = {
    "Qwen/Qwen2.5-3B-Instruct-AWQ": (36, 2, 2_070_000_000),
    "Qwen/Qwen3-4B-AWQ": (36, 8, 2_670_000_000),
    "Qwen/Qwen2.5-7B-Instruct-AWQ": (28, 4, 5_570_000_000),
    "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ": (28, 4, 5_570_000_000),
    "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4": (32, 8, 5_740_000_000),
    "Qwen/Qwen3-8B-AWQ": (36, 8, 6_100_000_000),
    "Qwen/Qwen2.5-14B-Instruct-AWQ": (48, 8, 9_980_000_000),
    "Qwen/Qwen3-14B-AWQ": (40, 8, 9_970_000_000),
}


def shape_of(weights: str) -> ModelShape:
    layers, kv_heads, weight_bytes = SHAPES[weights]
    return ModelShape(
        architecture="qwen2",
        layers=layers,
        kv_values_per_token=layers * kv_heads * 256,
        context_tokens=32_768,
        weight_bytes=weight_bytes,
        vocabulary=152_064,
        kv_heads=kv_heads,
        head_dim=128,
        quantization="awq",
    )


@pytest.mark.parametrize(("name", "models", "bots"), [("24gb", 2, 4), ("h100", 8, 8)])
def test_the_gpu_examples_fit_on_their_cards(name: str, models: int, bots: int) -> None:
    config = load(ROOT / "examples" / f"{name}.yaml", {})
    planned = plan(config, shape_of)
    assert planned.fits, refusal(planned)
    assert len(config.models) == models
    assert sum(len(tenant.bots) for tenant in config.tenants.values()) == bots
    for model in config.models:
        assert planned.model(model).chats >= 1


def test_the_laptop_example_fits_on_any_laptop() -> None:
    config = load(ROOT / "examples" / "laptop.yaml", {"BUNKHOUSE__MEMORY__CARD": "2GB"})
    assert plan(config).fits
    assert sorted(model.kv_bits for model in config.models.values()) == [4, 8]
    assert settled(config, "smollm2-kv8") == config.models["smollm2-kv8"]


@pytest.mark.parametrize("path", sorted((ROOT / "docker").glob("*.yaml")), ids=lambda path: path.name)
def test_the_container_configurations_load(path: Path) -> None:
    assert load(path, {}).tenants
