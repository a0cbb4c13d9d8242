"""The examples load, and fit on the cards that they are written for."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config.schema import load
from services.model_files.known_shapes import known_shapes
from services.planner.plan import plan, settled
from services.planner.words import refusal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "models", "bots"), [("24gb", 2, 4), ("h100", 8, 8)])
def test_the_gpu_examples_fit_on_their_cards(name: str, models: int, bots: int) -> None:
    config = load(ROOT / "examples" / f"{name}.yaml", {})
    planned = plan(config, known_shapes().__getitem__)
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
