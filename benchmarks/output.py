"""How every benchmark ends: one JSON object as its last line, and the same, with the machine's name, in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from services.devices.machine import machine


def keep(path: Path, figures: Mapping[str, object]) -> None:
    """In a file, with the machine's name and the date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"machine": machine(), "date": datetime.now(UTC).strftime("%Y-%m-%d"), **figures}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def write(path: Path, figures: Mapping[str, object]) -> None:
    """Print `figures` as the last line and keep them."""
    keep(path, figures)
    print(json.dumps(figures))
