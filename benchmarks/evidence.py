"""`make bench-evidence`: compare the claim "twice as many models" with the last GPU run.

Reads docs/benchmarks/capacity.json (benchmarks/gpu/capacity.py) and, where it is there, sharing.json beside it
(benchmarks/gpu/sharing.py) for what models that are busy at once do to each other; prints the ratios, writes them to
evidence.json there, docs/evidence.md and the charts in docs/images. What misses its bound, or was not run, is named in
the page's first paragraph.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.output import write
from services.evidence.charts import Bar, bar_file
from services.evidence.prove.memory import Sizes, held

DOCS = Path("docs")
TEMPLATE = Path(__file__).with_name("evidence.md.jinja")
BITS = ("16", "8", "4")
CACHES = {"16": "bf16, SGLang with Triton", "8": "fp8, SGLang with Triton", "4": "KV planes"}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a ratio of 4 bits to 16 has to reach, and what the article says of it."""

    name: str
    words: str
    at_least: float
    article: float | None = None


BOUNDS = (
    Bound("models_ratio_24gb", "models on the card", 2.0, 2.0),
    Bound("sessions_ratio_24gb", "sessions of one model", 3.0),
    Bound("context_ratio_qwq", "longest chat of QwQ-32B", 3.0, 1.5),
    Bound("speed_ratio_int4", "decode speed at equal sessions", 1.0, 0.8),
)


def ratio(above: float, below: float) -> float | None:
    """None where nothing fitted at 16 bits."""
    return round(above / below, 3) if below else None


def ratios(found: Mapping[str, Any]) -> dict[str, float | None]:
    """4 bits over 16 of each figure. Models and sessions count only what held the latency target when it ran.

    None for a part that did not run. Raises KeyError without the part `sessions`.
    """
    sessions, counts, large = found["sessions"]["at"], models(found), mixed(found)
    steps = {bits: sessions[bits]["at_equal_sessions"]["inter_token_p50_ms"] for bits in BITS}
    longest = found["qwq"]["at"] if "qwq" in found else None
    return {
        "models_ratio_24gb": ratio(counts["4"], counts["16"]) if counts else None,
        "sessions_ratio_24gb": ratio(sessions["4"]["within_target"], sessions["16"]["within_target"]),
        "context_ratio_qwq": ratio(longest["4"]["longest_context"], longest["16"]["longest_context"])
        if longest
        else None,
        "speed_ratio_int4": ratio(steps["16"], steps["4"]),
        "models_ratio_whole_card": ratio(large["4"], large["16"]) if large else None,
    }


def models(found: Mapping[str, Any]) -> dict[str, int]:
    """Models that ran side by side, each with all its sessions busy, within the target; empty where none were tried."""
    return _that_held(found.get("models", {}))


def mixed(found: Mapping[str, Any]) -> dict[str, int]:
    """The same on the whole card, where the first model is the 32B one."""
    return _that_held(found.get("mix", {}).get("at", {}))


def _that_held(part: Mapping[str, Any]) -> dict[str, int]:
    return {bits: at["started"] if at.get("within_target") else 0 for bits, at in part.items()}


def models_by_memory(found: Mapping[str, Any]) -> dict[str, int]:
    """Arithmetic: models that the card's memory holds, each with its sessions' KV, by the bytes that were measured."""
    part, at = found["sessions"], found["sessions"]["at"]
    per_token = {int(bits): at[bits]["bytes_per_token"] for bits in BITS}
    fixed = part["weight_bytes"], part["overhead_bytes"]
    sizes = Sizes(*fixed, per_token, found["context_tokens"], found["sessions_each"])
    return {bits: held(sizes, int(bits), int(found["card_gib"] * 2**30)).models for bits in BITS}


def missed(figures: Mapping[str, float | None]) -> list[str]:
    """A sentence for each bound that is not reached."""
    said = []
    for bound in BOUNDS:
        value = figures[bound.name]
        if value is None:
            said.append(f"{bound.words}: not run, or nothing held at 16 bits")
        elif value < bound.at_least:
            said.append(f"{bound.words}: {value:.2f}x, not {bound.at_least:g}x")
    return said


def contention(shared: Mapping[str, Any]) -> list[dict[str, float]]:
    """By how many models were busy: tokens a second of all, and ms a token, in turns and in space."""
    turns, space = (shared.get("runs", {}).get(mode, {}).get("levels", {}) for mode in ("turns", "space"))
    return [
        {
            "busy": int(count),
            **{f"{name}_tokens": side[count]["tokens_per_s"] for name, side in (("turns", turns), ("space", space))},
            **{f"{name}_ms": side[count]["pace_p50_ms"] for name, side in (("turns", turns), ("space", space))},
        }
        for count in sorted(turns.keys() & space.keys(), key=int)
    ]


def page(found: Mapping[str, Any], figures: Mapping[str, float | None], shared: Mapping[str, Any]) -> str:
    """Markdown."""
    short = missed(figures)
    template = jinja2.Template(TEMPLATE.read_text(), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    text: str = template.render(
        found=found,
        figures=figures,
        verdict=f"Missed: {'; '.join(short)}." if short else "Every bound is reached.",
        charts=charts(found),
        bounds=BOUNDS,
        caches=CACHES,
        counts=models(found),
        fit=models_by_memory(found),
        large=mixed(found),
        shared=shared,
        contention=contention(shared),
    )
    return text


def charts(found: Mapping[str, Any]) -> list[tuple[str, str, list[Bar]]]:
    """File name, title and bars, one a precision, of what ran."""
    card, counts, at = found["card_gib"], models(found), found["sessions"]["at"]
    drawn = []
    if counts:
        title = f"Models on one card, {found['sessions_each']} busy chats each"
        bars = [replace(bar, label=f"{card:g} GiB, {bar.label}") for bar in _bars(counts)]
        if "mix" in found:
            whole = f"{found['mix']['card_gib']:g} GiB"
            bars += [replace(bar, label=f"{whole}, {bar.label}", tone=2) for bar in _bars(mixed(found))]
        drawn.append(("models-on-a-card", title, bars))
    title = f"Chats of {found['context_tokens']:,} tokens at once, one 7B model, {card:g} GiB"
    drawn.append(("sessions-on-a-card", title, _bars({bits: at[bits]["within_target"] for bits in BITS})))
    return drawn


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    return [Bar(f"{bits} bits", float(count), f"{count}") for bits, count in counts.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 where there was no GPU run to read, or only a part of one."""
    parser = argparse.ArgumentParser(prog="benchmarks.evidence", description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS)
    docs = parser.parse_args(argv).docs
    source = docs / "benchmarks" / "capacity.json"
    if not source.exists():
        print(f"{source} is not there: `python -m benchmarks.gpu.capacity --tokenizer FOLDER` on a GPU host writes it")
        return 1
    found = json.loads(source.read_text())
    if "sessions" not in found:
        print(f"{source} lacks its part on sessions: `python -m benchmarks.gpu.capacity --parts sessions`")
        return 1
    if missing := [part for part in ("models", "qwq", "mix") if part not in found]:
        print(f"not run: `python -m benchmarks.gpu.capacity --parts {' '.join(missing)}`")
    figures = ratios(found)
    sharing = docs / "benchmarks" / "sharing.json"
    shared = json.loads(sharing.read_text()) if sharing.exists() else {}
    (docs / "evidence.md").write_text(page(found, figures, shared))
    (docs / "images").mkdir(exist_ok=True)
    for name, title, bars in charts(found):
        (docs / "images" / f"{name}.svg").write_text(bar_file(title, bars))
    write(docs / "benchmarks" / "evidence.json", figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
