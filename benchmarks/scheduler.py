"""The scheduler's figures, from the simulator and from the clock: `python -m benchmarks.scheduler`.

All runs are made in turns and in space (figures that end in `_space`). Last line: one JSON object. The same, with the
machine's name, goes to docs/benchmarks/scheduler.json, and the plots of docs/scheduling.md are drawn anew. `--quick`
runs a tenth of it and writes nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time

from benchmarks.output import write
from benchmarks.simulation import scenarios
from benchmarks.simulation.decisions import decisions_per_s
from benchmarks.simulation.figures import target_breaks
from benchmarks.simulation.traffic import DAY_S
from benchmarks.simulation.world import World
from gateway.kv_policies.task_classifier import EDGE_CHARS, classify
from services.contracts.devices import Sharing
from services.evidence.charts import Bar, Series, bar_file, line_file
from services.evidence.statistics import percentile

ROOT = Path(__file__).parents[1]
IMAGES, RESULTS = ROOT / "docs" / "images", ROOT / "docs" / "benchmarks"
MESSAGES = ROOT / "tests" / "gateway" / "kv_policies" / "data"
SEED = 1

Figures = dict[str, float | int | None]
Plots = dict[str, str]


def flood(scale: float, sharing: Sharing) -> tuple[Figures, Plots]:
    """A quiet tenant under a 32:1 flood."""
    seconds = 2000.0 * scale
    alone = scenarios.flood("bunkhouse", False, seed=SEED, seconds=seconds, sharing=sharing)
    beside = {
        kind: scenarios.flood(kind, True, seed=SEED, seconds=seconds, sharing=sharing)
        for kind in ("bunkhouse", "token_bucket", "fifo")
    }
    ratios = {kind: scenarios.ratio_p99(times, alone) for kind, times in beside.items()}
    figures: Figures = {
        "quiet_ttft_ratio": ratios["bunkhouse"],
        "quiet_ttft_ratio_token_bucket": ratios["token_bucket"],
        "quiet_ttft_ratio_fifo": ratios["fifo"],
        "quiet_ttft_p99_alone_s": percentile(alone, 0.99),
    }
    for variant in ("documents", "conversations"):
        harder = [
            scenarios.flood("bunkhouse", flooded, seed=SEED, seconds=seconds / 2, variant=variant, sharing=sharing)
            for flooded in (True, False)
        ]
        figures[f"quiet_ttft_ratio_{variant}"] = scenarios.ratio_p99(*harder)
    few_slots = ((2, 1), (3, 1), (4, 1), (8, 1), (2, 2), (3, 2))
    for slots, floods in few_slots if sharing is Sharing.TURNS else ():  # one model: it has nobody to share with
        few = [_few_slots(slots, count, 8 * seconds) for count in (floods, 0)]
        name = f"quiet_ttft_ratio_{slots}_slots" + ("" if floods == 1 else f"_{floods}_floods")
        figures[name] = scenarios.ratio_p99(*few)
    names = {"bunkhouse": "Bunkhouse", "token_bucket": "token bucket", "fifo": "FIFO"}
    plot = bar_file(
        "A quiet tenant's p99 first token in a flood, alone = 1",
        [Bar(names[kind], ratio, f"{ratio:.3g}x") for kind, ratio in ratios.items()],
    )
    return figures, {"flood": plot}


def _few_slots(slots: int, floods: int, seconds: float) -> list[float]:
    """Four seeds together: the 99th percentile of one run's 310 chats is decided by three of them."""
    return [
        one for seed in range(SEED, SEED + 4) for one in scenarios.few_slots(slots, floods, seed=seed, seconds=seconds)
    ]


def overload(scale: float, sharing: Sharing) -> tuple[Figures, Plots]:
    """Goodput as the offered load grows past what the device can do."""
    seconds, names = 240.0 * scale, {"bunkhouse": "Bunkhouse", "fifo": "FIFO, 16 bits", "least_kv": "least KV, 16 bits"}
    grid = (5, 10, 15, 20, 25, 30, 40, 60, 80)
    figures: Figures = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for kind in names:
        runs = {rate: _offered(kind, rate, seconds, sharing) for rate in grid}
        curves[kind] = [(float(rate), good) for rate, (good, _, _) in runs.items()]
        capacity = max((rate for rate, (good, offered, _) in runs.items() if good >= 0.95 * offered), default=grid[0])
        peak = max(good for good, _, _ in runs.values())
        at_3x, _, breaks = _offered(kind, 3 * capacity, seconds, sharing)
        suffix = "" if kind == "bunkhouse" else f"_{kind}"
        figures |= {
            f"goodput_3x{suffix}": at_3x / peak,
            f"goodput_peak_tokens_per_s{suffix}": peak,
            f"capacity_chats_per_s{suffix}": capacity,
            f"target_breaks_3x{suffix}": breaks,
        }
    return figures, {
        "overload": line_file(
            "Tokens a second within targets, rising load",
            [Series(names[kind], curve) for kind, curve in curves.items()],
            "chats offered a second",
        )
    }


def _offered(kind: str, rate: int, seconds: float, sharing: Sharing) -> tuple[float, float, float]:
    """Means over three seeds: documents come by chance, and one seed's goodput is off by some 2%."""
    runs = [scenarios.overload(kind, rate, seed=SEED + number, seconds=seconds, sharing=sharing) for number in range(3)]
    goods, offers, breaks = zip(*runs, strict=True)
    return sum(goods) / 3, sum(offers) / 3, sum(breaks) / 3


def precision(scale: float, sharing: Sharing) -> tuple[Figures, Plots]:
    """What fewer bits bring: sessions at once, models on a card."""
    seconds = 240.0 * max(scale, 0.5)
    runs = {name: scenarios.sessions(name, seed=SEED, seconds=seconds, sharing=sharing) for name in ("auto", "fixed")}
    held = {bits: scenarios.models_held(bits) for bits in (4, 8, 16)}
    figures: Figures = {
        "sessions_ratio": runs["auto"][0] / runs["fixed"][0],
        "sessions_auto": runs["auto"][0],
        "sessions_16_bits": runs["fixed"][0],
        "models_ratio": held[4] / held[16],
    }
    named = {"auto, 4 to 8 bits": runs["auto"][0], "16 bits": runs["fixed"][0]}
    plot = bar_file(
        "Chats at once within target, four 8B models",
        [Bar(name, chats, f"{chats:.0f}") for name, chats in named.items()],
    )
    return figures, {"sessions": plot}


def day(scale: float, sharing: Sharing) -> tuple[Figures, Plots]:
    """A day of support traffic: targets kept, and memory as it goes."""
    reserved: list[tuple[float, float]] = []
    used: list[tuple[float, float]] = []

    def look(world: World) -> None:
        minute = world.gpu.now_s / 60.0
        if not reserved or minute - reserved[-1][0] >= 0.5:
            reserved.append((minute, world.subject.reserved_bytes() / scenarios.GIB))
            used.append((minute, sum(engine.kv_bytes for engine in world.gpu.engines.values()) / scenarios.GIB))

    world = scenarios.day(seed=SEED, seconds=DAY_S * scale, watch=look, sharing=sharing)
    chats = list(world.chats.values())
    figures: Figures = {
        "target_breaks": target_breaks(chats, scenarios.DAY_TARGETS),
        "day_chats": len(chats),
        "day_answered": sum(chat.answered for chat in chats),
        "day_demotions": world.demotions,
    }
    plot = line_file(
        "KV memory over a day on a 24 GB card, GiB",
        [Series("reserved", reserved), Series("used", used)],
        "minute of a day played in two hours",
    )
    return figures, {"day": plot}


def classifier() -> Figures:
    """Accuracy on messages the weights were not tuned on, and time a message, and one of over 500 characters."""
    figures: Figures = {}
    messages: dict[str, list[str]] = {}
    for part in ("tuning", "held_out"):
        text = (MESSAGES / f"messages_{part}.tsv").read_text(encoding="utf-8")
        rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
        begun = process_time()
        right = [classify(message)[0].value == task for task, _, message in rows]
        took_s = process_time() - begun
        figures[f"classify_accuracy_{part}"] = sum(right) / len(right)
        figures["classify_ms"] = took_s / len(rows) * 1e3
        for _, language, message in rows:
            messages.setdefault(language, []).append(message)
    long = [text for those in messages.values() for text in _joined(those)]
    begun = process_time()
    for text in long:
        classify(text)
    figures["classify_ms_long"] = (process_time() - begun) / len(long) * 1e3
    return figures


def _joined(messages: list[str]) -> list[str]:
    """Messages one after another, in texts that are longer than what the classifier reads of one."""
    texts, text = [], ""
    for message in messages:
        text += f"{message} "
        if len(text) > 2 * EDGE_CHARS:
            texts.append(text)
            text = ""
    return texts


def predict_error() -> float | None:
    """Median error of the predicted step time on the GPU, from docs/benchmarks/workers.json; None until measured."""
    path = RESULTS / "workers.json"
    measured = json.loads(path.read_text()).get("predict_error") if path.exists() else None
    return float(measured) if isinstance(measured, int | float) else None


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of it; writes nothing")
    quick = parser.parse_args().quick
    scale = 0.1 if quick else 1.0
    figures: Figures = {}
    plots: Plots = {}
    for sharing in Sharing:
        suffix = "" if sharing is Sharing.TURNS else f"_{sharing.value}"
        # Other programs only ever slow it.
        best = max(decisions_per_s(8000, sharing=sharing) for _ in range(1 if quick else 7))
        figures[f"decisions_per_s{suffix}"] = round(best)
        for part in (flood, overload, precision, day):
            more, drawn = part(scale, sharing)
            figures |= {f"{name}{suffix}": value for name, value in more.items()}
            plots = drawn | plots  # those of turns
            print(part.__name__, sharing, {name: round(value or 0.0, 4) for name, value in more.items()}, flush=True)
    figures |= classifier()
    figures["predict_error"] = predict_error()
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    if quick:
        print(json.dumps(rounded))
        return
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, drawing in plots.items():
        (IMAGES / f"scheduling-{name}.svg").write_text(drawing, encoding="utf-8")
    write(RESULTS / "scheduler.json", rounded)


if __name__ == "__main__":
    main()
