"""`python -m benchmarks.gpu.workers --tokenizer FOLDER`: several SGLang workers of one host share one GPU.

Brings up the whole host (embedded Redis, gateway, scheduler, workers) with models of the Qwen2.5-7B shape in 4-bit
weights and 8-bit KV, drives real chats through the gateway, and records: start-up time, memory planned and seen,
latency of one model with 0 to 3 busy neighbours, the same with admission by bandwidth on and off under overload, and
the time to sleep and to wake. `--device cpu` is a dry run of the programme on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import yaml

from benchmarks.gpu import load, shapes
from benchmarks.output import write
from services.contracts.devices import gpu
from services.contracts.snapshot import Snapshot
from services.devices.telemetry import GpuSource
from services.evidence.statistics import percentile
from services.store.bandwidth import read_measured
from services.store.commands import Command, Commands
from services.store.runtime import open_runtime
from services.store.submission import SubmissionClient
from tests.host_process import HostProcess, run_host

FLAGS = ["--sampling-backend", "pytorch", "--grammar-backend", "none"]
GPU_FLAGS = [
    *("--load-format", "dummy", "--attention-backend", "triton", "--cuda-graph-backend-prefill=disabled"),
    *("--mem-fraction-static", "0.85"),
]
START_S_MAX = 280.0
SETTLE_S = 4.0
PARTS = ("contention", "admission")
LOAD = ("clients", "prompt", "answer", "seconds", "flood", "flood_prompt", "flood_seconds")
RESTART_S = 5.0


def used_bytes() -> int:
    """Memory in use on the card; 0 without one."""
    reading = GpuSource().read()
    return reading.used_bytes if reading else 0


def configuration(folder: Path, weights: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`options.models` equal models, each with a bot of its own tenant."""
    gpu = options.device == "cuda"
    model = {
        "engine": "sglang",
        "weights": str(weights),
        "kv_bits": options.kv_bits,
        "context_tokens": 8192 if gpu else 512,
        "chats_max": options.chats,
        "kv_tokens": options.kv_tokens,
        "device": options.device,
        "flags": [*FLAGS, *(GPU_FLAGS if gpu else [])],
    }
    if options.sleep:
        model["idle_after_s"] = 3600
    if options.python:
        model["python"] = options.python
    return {
        "data_dir": str(folder / "data"),
        "models": {name: dict(model) for name in names(options)},
        "tenants": {
            f"t{name}": {
                "ready_key": True,
                "bots": {"bot": {"model": name, "kv": {"policy": "fixed", "bits": options.kv_bits}}},
            }
            for name in names(options)
        },
    }


def planned(config: Path) -> dict[str, int]:
    """Bytes that the planner gives each model."""
    command = [sys.executable, "-c", "from services.cli import main; main()", "plan", str(config), "--json"]
    plan = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {model["model"]: model["total_bytes"] for card in plan["cards"] for model in card["models"]}


def off_pct(planned_bytes: int, seen_bytes: int, card_bytes: int) -> float:
    """How far a plan is from what was seen, in percent of the card."""
    return round(100 * abs(planned_bytes - seen_bytes) / card_bytes, 3)


def memory(host: HostProcess, config: Path, used_before: int) -> dict[str, Any]:
    """Planned against seen. NVML's sum over the card where it does not tell processes apart."""
    plan = planned(config)
    figures: dict[str, Any] = {"planned_bytes": sum(plan.values()), "planned_by_model": plan}
    reading = GpuSource().read()
    if reading is None:
        return figures
    seen = reading.used_bytes - used_before
    return figures | {
        "card_bytes": reading.total_bytes,
        "seen_bytes": seen,
        "seen_by_process": {str(pid): size for pid, size in reading.process_bytes.items()},
        "planner_error_pct_of_card": off_pct(sum(plan.values()), seen, reading.total_bytes),
        "supervisor": host.process.pid,
    }


async def watch(config: Path, names: list[str], seen: dict[str, list[tuple[float, float]]], trace: Path | None) -> None:
    """Once a second: each busy model's predicted and observed time a token, in ms. All that the scheduler says of the
    models goes to `trace`, four times a second."""
    begin = time.perf_counter()
    async with open_runtime(config).connect() as connection:
        for turn in itertools.count():
            snapshot = await SubmissionClient(connection).snapshot() or Snapshot(at_s=0.0, models={}, waiting=0)
            if trace is not None:
                with trace.open("ab") as lines:
                    lines.write(orjson.dumps({"busy": len(names)} | snapshot.as_dict()) + b"\n")
            # Before that, chats of the level before are in an engine's report.
            if turn % 4 == 0 and time.perf_counter() - begin >= SETTLE_S:
                for name in names:
                    model = snapshot.models.get(name)
                    if model and model.predicted_inter_token_s and model.observed_inter_token_s:
                        pair = model.predicted_inter_token_s, model.observed_inter_token_s
                        seen.setdefault(name, []).append((round(pair[0] * 1000, 3), round(pair[1] * 1000, 3)))
            await asyncio.sleep(0.25)


def weighed(seen: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """By model: mean predicted, mean observed, and how far the one is from the other, as a share."""
    found = {}
    for name, pairs in seen.items():
        predicted, observed = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
        error = abs(predicted - observed) / observed
        found[name] = {
            "predicted_ms": round(predicted, 3),
            "observed_ms": round(observed, 3),
            "samples": len(pairs),
            "pairs_ms": pairs,
            "error": round(error, 4),
        }
    return found


def names(options: argparse.Namespace) -> list[str]:
    """The models."""
    return [f"m{number + 1}" for number in range(options.models)]


async def busy(host: HostProcess, models: list[str], clients: int, seconds: float, **sizes: int) -> list[load.Loop]:
    """Chats with some models' bots at once; `sizes` are those of `load.closed_loop`."""
    loops = (load.closed_loop(host, f"t{model}/bot", clients, seconds, **sizes) for model in models)
    return await asyncio.gather(*loops)


async def short_chats(host: HostProcess, models: list[str], options: argparse.Namespace) -> list[load.Loop]:
    """The load of all parts but the flood."""
    sizes = {"prompt_tokens": options.prompt, "max_tokens": options.answer}
    return await busy(host, models, options.clients, options.seconds, **sizes)


async def _learn(host: HostProcess, config: Path, options: argparse.Namespace) -> None:
    """All models busy, unmeasured: kernels compile, and the scheduler learns how fast this machine is."""
    watching = asyncio.create_task(watch(config, names(options), {}, options.trace))
    await short_chats(host, names(options), options)
    watching.cancel()


async def contention(host: HostProcess, config: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The first model's latency while 0, 1, 2, 3 others work."""
    found: dict[str, Any] = {}
    await _learn(host, config, options)
    for count in range(1, options.models + 1):
        seen: dict[str, list[tuple[float, float]]] = {}
        chosen = names(options)[:count]
        watching = asyncio.create_task(watch(config, chosen, seen, options.trace))
        loops = await short_chats(host, chosen, options)
        watching.cancel()
        found[str(count)] = {
            "first_model": load.figures(loops[0]),
            "pace_mean_ms": load.ms(_mean([pace for loop in loops for pace in loop.paces_s])),
            "pace_by_model_ms": [load.ms(_mean(loop.paces_s)) for loop in loops],
            "tokens_per_s_all": round(sum(loop.pieces / loop.took_s for loop in loops), 1),
            "failed": sum(loop.failed for loop in loops),
            "errors": [loop.errors[0] for loop in loops if loop.errors][:1],
            "predictions": weighed(seen),
        }
        print(count, json.dumps(found[str(count)]), file=sys.stderr, flush=True)
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def predict_error(levels: dict[str, Any]) -> float | None:
    """Median over levels and models, of means over a level."""
    errors = [at["error"] for level in levels.values() for at in level["predictions"].values()]
    return percentile(errors, 0.5) if errors else None


def predict_error_1s(levels: dict[str, Any]) -> float | None:
    """Median over single seconds."""
    pairs = [pair for level in levels.values() for at in level["predictions"].values() for pair in at["pairs_ms"]]
    return (
        percentile([round(abs(predicted / observed - 1), 4) for predicted, observed in pairs], 0.5) if pairs else None
    )


def retarget(config: Path, target_ms: float | None) -> None:
    """Write another latency target for all models."""
    settings = yaml.safe_load(config.read_text())
    for model in settings["models"].values():
        model["targets"] = {} if target_ms is None else {"inter_token_ms_max": target_ms}
    config.write_text(yaml.safe_dump(settings))


async def admission(host: HostProcess, config: Path, options: argparse.Namespace) -> dict[str, Any]:
    """As many clients as the models take chats, with long prompts; with the target held by admission, and without one.

    Reading prompts takes most of the GPU then, so that without admission everybody's answer is slow.
    """
    found: dict[str, Any] = {"target_ms": options.target_ms}
    sizes = {"prompt_tokens": options.flood_prompt, "max_tokens": options.answer}
    for name, target in (("off", None), ("on", options.target_ms)):
        retarget(config, target)
        host.kill("scheduler")  # it is started again, and reads the file anew
        await asyncio.sleep(RESTART_S)
        await _learn(host, config, options)
        watching = asyncio.create_task(watch(config, names(options), {}, options.trace))
        flooding = asyncio.create_task(busy(host, names(options), options.flood, options.flood_seconds, **sizes))
        peak = 0
        while not flooding.done():
            peak = max(peak, used_bytes())
            await asyncio.sleep(0.5)
        watching.cancel()
        seen = load.together(flooding.result())
        within = sum(pace_s * 1000 <= options.target_ms for pace_s in seen.paces_s)
        found[name] = {
            "took_s": round(seen.took_s, 1),
            **load.figures(seen),
            "chats_within_target": within,
            "goodput_chats_per_s": round(within / seen.took_s, 2),
            "errors": seen.errors,
            "memory_peak_bytes": peak,
        }
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    return found


async def naps(host: HostProcess) -> dict[str, Any]:
    """Seconds to put the first model to sleep, and to its first token when a chat wakes it."""
    runtime = open_runtime(host.data_dir.parent / "host.yaml")
    async with runtime.connect() as connection:
        begin = time.perf_counter()
        commands = Commands(connection)
        await commands.send("m1", Command("nap", "sleep", at_s=time.time()))
        async with asyncio.timeout(60):
            while (seen := await commands.read("m1")) is None or not seen.ended:  # noqa: ASYNC110  (Redis says)
                await asyncio.sleep(0.05)
        asleep_s = time.perf_counter() - begin
    await asyncio.sleep(2)
    used = used_bytes()
    woken = await load.closed_loop(host, "tm1/bot", 1, 0.1, prompt_tokens=64, max_tokens=8)
    return {
        "sleep_s": round(asleep_s, 2),
        "wake_to_first_token_s": round(woken.firsts_s[0], 2) if woken.firsts_s else None,
        "errors": woken.errors,
        "used_while_asleep_bytes": used,
    }


def main() -> None:
    """Run the programme; each part's figures are written as it ends, so that a later failure loses nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="a real model folder instead of the shape (dry run)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--python", default=None)
    parser.add_argument("--sleep", action="store_true", help="measure sleep and wake, too")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="figures of others stay in the file")
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--kv-bits", type=int, default=8)
    parser.add_argument("--kv-tokens", type=int, default=65_536)
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--flood", type=int, default=16, help="clients a model in the part on admission")
    parser.add_argument("--flood-prompt", type=int, default=2000)
    parser.add_argument("--flood-seconds", type=float, default=15.0)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--answer", type=int, default=192)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--target-ms", type=float, default=20.0, help="of the part on admission")
    parser.add_argument("--trace", type=Path, help="where what the scheduler says of the models goes, as JSON lines")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/workers.json"))
    options = parser.parse_args()
    figures: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    figures |= {"models": options.models, "shape": "Qwen2.5-7B AWQ", "kv_bits": options.kv_bits}
    figures["load"] = {name: getattr(options, name) for name in LOAD}
    used_before = used_bytes()
    reading = GpuSource().read()
    figures["gpu"] = reading.name if reading else None
    with tempfile.TemporaryDirectory(prefix="bh-gpu-") as name:
        folder = Path(name)
        weights = options.weights or shapes.write(folder / "model", options.tokenizer, shapes.QWEN_7B)
        config = folder / "host.yaml"
        config.write_text(yaml.safe_dump(configuration(folder, weights, options)))
        with run_host(folder / "data", config, START_S_MAX) as host:
            figures["start_s"] = host.events["ready"]["took_s"]
            asyncio.run(_parts(host, config, options, used_before, figures))


async def _parts(
    host: HostProcess, config: Path, options: argparse.Namespace, used_before: int, figures: dict[str, Any]
) -> None:
    async with open_runtime(config).connect() as connection:
        figures["copy_bytes_per_s"] = (await read_measured(connection)).get(gpu(0))
    figures["memory"] = await asyncio.to_thread(memory, host, config, used_before)
    write(options.out, figures)
    if "contention" in options.parts:
        figures["contention"] = await contention(host, config, options)
        figures["predict_error"] = predict_error(figures["contention"])
        figures["predict_error_1s"] = predict_error_1s(figures["contention"])
    else:
        await _learn(host, config, options)
    held = figures["memory"]
    held["busy_bytes"] = used_bytes() - used_before
    if "card_bytes" in held:
        error = off_pct(held["planned_bytes"], held["busy_bytes"], held["card_bytes"])
        held["planner_error_busy_pct_of_card"] = error
    write(options.out, figures)
    if options.sleep:
        figures["naps"] = await naps(host)
        write(options.out, figures)
    if "admission" in options.parts:
        figures["admission"] = await admission(host, config, options)
        write(options.out, figures)


if __name__ == "__main__":
    main()
