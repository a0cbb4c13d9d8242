"""Shapes of models on the hub, for planning where no hub is reached: the examples', and others (docs/models.md).

From each model's own config.json. `weight_bytes` is rounded to 10 MB, or is what its publisher names.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from services.model_files.shape import Experts, ModelShape


@cache
def known_shapes() -> dict[str, ModelShape]:
    """By name on the hub."""
    text = files(__package__).joinpath("known_shapes.json").read_text()
    return {name: _shape(values) for name, values in json.loads(text).items()}


def _shape(values: dict[str, Any]) -> ModelShape:
    experts = values.get("experts")
    return ModelShape(**{**values, "experts": Experts(**experts) if experts else None})
