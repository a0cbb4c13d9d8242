"""What the plugin is told at start: one JSON object in the environment. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields

from .layout import BITS

ENVIRONMENT_NAME = "BUNKHOUSE_KVPLANES"


@dataclass(frozen=True, slots=True)
class KVPlanesConfig:
    """The plugin's settings. Raises ValueError where one is out of range.

    `bits`: for requests whose ``extra_key`` names none. `sink_tokens`: first tokens of a sequence that keep both
    planes at any precision. `recent_tokens`: newest tokens of a 4-bit session that keep both planes.
    `calibration_tokens`: the first prefill of at least so many tokens fixes the centres of keys and values.
    `control`: path of the Unix socket for live control; empty for none.
    """

    bits: int = 8
    sink_tokens: int = 4
    recent_tokens: int = 32
    calibration_tokens: int = 64
    control: str = ""

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {BITS}, not {self.bits}")
        for name, high in (("sink_tokens", 64), ("recent_tokens", 1024), ("calibration_tokens", 1 << 20)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value <= high:
                raise ValueError(f"{name} must be a number from 0 to {high}, not {value!r}")

    @classmethod
    def from_json(cls, text: str) -> KVPlanesConfig:
        """Read the settings from a JSON object. Raises ValueError for bad JSON, unknown keys or bad values."""
        try:
            loaded = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{ENVIRONMENT_NAME} is not JSON: {error}") from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{ENVIRONMENT_NAME} must be a JSON object, not {text!r}")
        unknown = set(loaded) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"{ENVIRONMENT_NAME} has unknown keys: {', '.join(sorted(unknown))}")
        return cls(**loaded)

    def to_json(self) -> str:
        """The value of the environment variable that switches the plugin on with these settings."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)})


def read_config(environ: Mapping[str, str]) -> KVPlanesConfig | None:
    """The plugin's settings, or None where the environment does not switch it on. Raises ValueError as above."""
    text = environ.get(ENVIRONMENT_NAME, "")
    return KVPlanesConfig.from_json(text) if text else None
