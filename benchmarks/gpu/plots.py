"""`python -m benchmarks.gpu.plots`: draw docs/images from the last GPU runs in docs/benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.kvplanes_runs import LENGTHS, Job
from services.evidence.charts import Bar, bar_file

DOCS = Path("docs")
MODEL = "qwen2.5-7b-awq"
CACHES = {
    "triton": "16 bits, Triton",
    "flashinfer": "16 bits, FlashInfer",
    "flashinfer_fp8": "fp8, FlashInfer",
    "kv8": "planes, 8 bits",
    "kv4": "planes, 4 bits",
}


def pace(found: Mapping[str, Any]) -> str:
    """Of workers.json: the mean over the chats of as many busy models."""
    means = {count: level["pace_mean_ms"] for count, level in found["contention"].items()}
    bars = [Bar(f"{count} busy", mean, f"{mean:.1f} ms") for count, mean in means.items()]
    return bar_file("Milliseconds a token, 7B models on one GPU", bars)


def decode_steps(found: Mapping[str, Any]) -> str:
    """Of kvplanes.json: each cache of MODEL, by context."""
    engines: Mapping[str, Mapping[str, float]] = found["engines"]
    bars: list[Bar] = []
    for context in LENGTHS:
        group = [
            Bar(name, step_ms, f"{step_ms:.2f} ms", tone)
            for tone, (cache, name) in enumerate(CACHES.items(), 1)
            if (step_ms := engines.get(f"{MODEL} {cache}", {}).get(f"{Job(context).name}_ms")) is not None
        ]
        bars += [Bar(f"{context:,} tokens", 0, "", tone=0), *group] if group else []
    return bar_file(f"One decode step of 32 requests, Qwen2.5-7B AWQ, {found['gpu']}", bars)


def main() -> None:
    """Read the figures, write the pictures."""
    for source, name, draw in (("workers", "workers-pace", pace), ("kvplanes", "kvplanes-speed", decode_steps)):
        found = json.loads((DOCS / "benchmarks" / f"{source}.json").read_text())
        (DOCS / "images" / f"{name}.svg").write_text(draw(found))


if __name__ == "__main__":
    main()
