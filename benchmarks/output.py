"""How every benchmark ends: one JSON object as its last line, and the same, with the machine's name, in a file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path


def machine() -> str:
    """What the figures were taken on: processor and cores. The host's own name says nothing to others."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {len(os.sched_getaffinity(0)) or os.cpu_count()} of {os.cpu_count()} cores"


def keep(path: Path, figures: Mapping[str, object]) -> None:
    """In a file, with the machine's name and the date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"machine": machine(), "date": datetime.now(UTC).strftime("%Y-%m-%d"), **figures}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def write(path: Path, figures: Mapping[str, object]) -> None:
    """Print `figures` as the last line and keep them."""
    keep(path, figures)
    print(json.dumps(figures))
