"""Draw docs/images/kvplanes-speed.svg from docs/benchmarks/kvplanes.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLOURS = {"auto": "#8a98a6", "fp8_e5m2": "#5b8c5a", "kv8": "#e08e2b", "kv4": "#2f6fb3", "fp4_mx_block16": "#a04b6a"}
NAMES = {"auto": "bf16", "fp8_e5m2": "fp8", "kv8": "planes, 8 bits", "kv4": "planes, 4 bits", "fp4_mx_block16": "fp4"}
STYLE = (
    ".t{fill:#1d2733}.s{fill:#51606f;font-size:12px}"
    "@media (prefers-color-scheme: dark){.t{fill:#e8edf2}.s{fill:#a9b6c2}}"
)


def rows(engines: dict[str, dict[str, float]]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Decode steps by model and context: (title, [(cache, milliseconds)])."""
    found = []
    for model in dict.fromkeys(name.rsplit(" ", 1)[0] for name in engines):
        for context in (1024, 4096, 16384):
            key = f"decode_{context}_ms"
            bars = [
                (cache, engines[f"{model} {cache}"][key])
                for cache in COLOURS
                if key in engines.get(f"{model} {cache}", {})
            ]
            if bars:
                found.append((f"{model}, {context:,} tokens", bars))
    return found


def draw(figures: dict[str, object]) -> str:
    """The picture as SVG text."""
    engines: Any = figures["engines"]
    groups = rows(engines)
    longest = max(value for _, bars in groups for _, value in bars)
    parts, y = [], 58
    for title, bars in groups:
        parts.append(f'<text x="20" y="{y}" class="t" font-weight="600">{title}</text>')
        y += 10
        for cache, value in bars:
            width = value / longest * 480
            parts.append(f'<text x="170" y="{y + 13}" text-anchor="end" class="s">{NAMES[cache]}</text>')
            parts.append(f'<rect x="180" y="{y}" width="{width:.1f}" height="16" fill="{COLOURS[cache]}"/>')
            parts.append(f'<text x="{186 + width:.1f}" y="{y + 13}" class="s">{value:.2f} ms</text>')
            y += 21
        y += 26
    head = f'<text x="20" y="26" class="t" font-size="16">One decode step of 32 requests, {figures["gpu"]}</text>'
    body = "\n  ".join([head, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {y}" font-family="system-ui, sans-serif" '
        f'font-size="14">\n  <style>{STYLE}</style>\n  {body}\n</svg>\n'
    )


def main() -> None:
    """Read the figures, write the picture."""
    figures = json.loads(Path("docs/benchmarks/kvplanes.json").read_text())
    Path("docs/images/kvplanes-speed.svg").write_text(draw(figures))


if __name__ == "__main__":
    main()
