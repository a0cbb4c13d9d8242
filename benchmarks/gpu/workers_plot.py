"""Draw docs/images/workers-pace.svg from docs/benchmarks/workers.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.evidence.loadtest.charts import Bar, bar_file

DOCS = Path("docs")


def bars(contention: Mapping[str, Any]) -> list[Bar]:
    """One bar a number of busy models: the mean over their chats, milliseconds a token."""
    drawn = []
    for count, level in contention.items():
        mean = level["pace_mean_ms"]
        drawn.append(Bar(f"{count} busy", mean, f"{mean:.1f} ms"))
    return drawn


def main() -> None:
    """Read the figures, write the picture."""
    found = json.loads((DOCS / "benchmarks" / "workers.json").read_text())
    title = "Milliseconds a token, 7B models on one GPU"
    (DOCS / "images" / "workers-pace.svg").write_text(bar_file(title, bars(found["contention"])))


if __name__ == "__main__":
    main()
