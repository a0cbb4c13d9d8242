"""Shapes of the hub's models that the examples use, for planning where no hub is reached.

From each model's own config.json; `weight_bytes` is rounded to 10 MB.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from services.model_files.shape import ModelShape


@cache
def known_shapes() -> dict[str, ModelShape]:
    """By name on the hub."""
    text = files(__package__).joinpath("known_shapes.json").read_text()
    return {name: ModelShape(**values) for name, values in json.loads(text).items()}
