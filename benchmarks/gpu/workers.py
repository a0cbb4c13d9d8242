"""`python -m benchmarks.gpu.workers --tokenizer FOLDER`: several SGLang workers of one host share one GPU.

Brings up the whole host (embedded Redis, gateway, scheduler, workers) with models of the Qwen2.5-7B shape in 4-bit
weights and 8-bit KV, drives real chats through the gateway, and records: start-up time, memory planned and seen,
latency of one model with 0 to 3 busy neighbours, the same with admission by bandwidth on and off under overload, and
the time to sleep and to wake. `--device cpu` is a dry run of the programme on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.gpu import load, shapes
from benchmarks.host import HostProcess, run_host
from benchmarks.output import write
from services.bandwidth import read_measured
from services.queues.commands import Command, Commands
from services.runtime import open_runtime
from services.telemetry import GpuSource

FLAGS = ["--sampling-backend", "pytorch", "--grammar-backend", "none"]
GPU_FLAGS = [
    *("--load-format", "dummy", "--attention-backend", "triton", "--cuda-graph-backend-prefill=disabled"),
    *("--mem-fraction-static", "0.85"),
]
TARGET_MS = 30.0
START_S_MAX = 280.0
SETTLE_S = 4.0


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
    names = [f"m{number + 1}" for number in range(options.models)]
    return {
        "data_dir": str(folder / "data"),
        "models": {name: dict(model) for name in names},
        "tenants": {
            f"t{name}": {
                "ready_key": True,
                "bots": {"bot": {"model": name, "kv": {"policy": "fixed", "bits": options.kv_bits}}},
            }
            for name in names
        },
    }


def planned(config: Path) -> dict[str, int]:
    """Bytes that the planner gives each model."""
    command = [sys.executable, "-c", "from services.cli import main; main()", "plan", str(config), "--json"]
    plan = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {model["model"]: model["total_bytes"] for card in plan["cards"] for model in card["models"]}


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
        "planner_error_pct_of_card": round(100 * abs(sum(plan.values()) - seen) / reading.total_bytes, 3),
        "supervisor": host.process.pid,
    }


async def watch_predictions(host: HostProcess, names: list[str], errors: list[float]) -> None:
    """Once a second: how far each busy model's predicted time a token is from what its engine reports, as a share."""
    await asyncio.sleep(SETTLE_S)  # an engine reports a mean over its last seconds
    while True:
        metrics = (await asyncio.to_thread(httpx.get, f"{host.url}/metrics")).text
        for name in names:
            predicted, observed = _gauge(metrics, name, "predicted"), _gauge(metrics, name, "observed")
            if predicted and observed:
                errors.append(abs(predicted - observed) / observed)
        await asyncio.sleep(1.0)


async def contention(host: HostProcess, options: argparse.Namespace, errors: list[float]) -> dict[str, Any]:
    """The first model's latency while 0, 1, 2, 3 others work; `errors` gets those of the scheduler's predictions."""
    bots = [f"tm{number + 1}/bot" for number in range(options.models)]
    found: dict[str, Any] = {}
    for busy in range(1, options.models + 1):
        seen: list[float] = []
        watching = asyncio.create_task(watch_predictions(host, [f"m{n + 1}" for n in range(busy)], seen))
        loops = await asyncio.gather(
            *(
                load.closed_loop(
                    host, bot, options.clients, options.seconds, prompt_tokens=options.prompt, max_tokens=options.answer
                )
                for bot in bots[:busy]
            )
        )
        watching.cancel()
        errors += seen
        metrics = (await asyncio.to_thread(httpx.get, f"{host.url}/metrics")).text
        found[str(busy)] = {
            "first_model": load.figures(loops[0], options.seconds),
            "tokens_per_s_all": round(sum(loop.pieces for loop in loops) / options.seconds, 1),
            "failed": sum(loop.failed for loop in loops),
            "errors": [loop.errors[0] for loop in loops if loop.errors][:1],
            "predicted_ms": _gauge(metrics, "m1", "predicted"),
            "observed_ms": _gauge(metrics, "m1", "observed"),
            "predict_error": _share(seen),
        }
        print(busy, json.dumps(found[str(busy)]), file=sys.stderr, flush=True)
    return found


def _gauge(metrics: str, model: str, kind: str) -> float | None:
    for line in metrics.splitlines():
        if line.startswith("bunkhouse_inter_token_seconds") and f'model="{model}"' in line and f'kind="{kind}"' in line:
            return round(float(line.split()[-1]) * 1000, 3)
    return None


def _share(errors: list[float]) -> float | None:
    median = load.percentile(errors, 0.5)
    return None if median is None else round(median, 4)


def retarget(config: Path, target_ms: float | None) -> None:
    """Write another latency target for all models."""
    settings = yaml.safe_load(config.read_text())
    for model in settings["models"].values():
        model["targets"] = {} if target_ms is None else {"inter_token_ms_max": target_ms}
    config.write_text(yaml.safe_dump(settings))


async def admission(host: HostProcess, config: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Twice the clients that the card holds within the target, with the target held and not held."""
    found: dict[str, Any] = {"target_ms": options.target_ms}
    bots = [f"tm{number + 1}/bot" for number in range(options.models)]
    for name, target in (("off", None), ("on", options.target_ms)):
        retarget(config, target)
        host.kill("scheduler")  # it is started again, and reads the file anew
        await asyncio.sleep(6)
        peak = 0
        loops = asyncio.gather(
            *(
                load.closed_loop(
                    host, bot, options.flood, options.seconds, prompt_tokens=options.prompt, max_tokens=options.answer
                )
                for bot in bots
            )
        )
        while not loops.done():
            peak = max(peak, used_bytes())
            await asyncio.sleep(0.5)
        gaps = [gap for loop in loops.result() for gap in loop.gaps_s]
        within = sum(gap * 1000 <= options.target_ms for gap in gaps)
        found[name] = {
            "inter_token_p50_ms": round((load.percentile(gaps, 0.5) or 0) * 1000, 3),
            "inter_token_p99_ms": round((load.percentile(gaps, 0.99) or 0) * 1000, 3),
            "tokens_per_s": round(len(gaps) / options.seconds, 1),
            "tokens_within_target_per_s": round(within / options.seconds, 1),
            "failed": sum(loop.failed for loop in loops.result()),
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
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--kv-bits", type=int, default=8)
    parser.add_argument("--kv-tokens", type=int, default=65_536)
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--flood", type=int, default=24)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--answer", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--target-ms", type=float, default=TARGET_MS)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/workers.json"))
    options = parser.parse_args()
    figures: dict[str, Any] = {"models": options.models, "shape": "Qwen2.5-7B AWQ", "kv_bits": options.kv_bits}
    used_before = used_bytes()
    reading = GpuSource().read()
    figures["gpu"] = reading.name if reading else None
    with tempfile.TemporaryDirectory(prefix="bh-gpu-") as name:
        folder = Path(name)
        weights = options.weights or shapes.write(folder / "model", options.tokenizer, shapes.QWEN_7B)
        config = folder / "host.yaml"
        config.write_text(yaml.safe_dump(configuration(folder, weights, options)))
        with run_host(folder / "data", config, START_S_MAX) as host:
            figures["start_s"] = host.took_s
            asyncio.run(_parts(host, config, options, used_before, figures))


async def _parts(
    host: HostProcess, config: Path, options: argparse.Namespace, used_before: int, figures: dict[str, Any]
) -> None:
    async with open_runtime(config).connect() as connection:
        figures["copy_bytes_per_s"] = await read_measured(connection)
    figures["memory"] = await asyncio.to_thread(memory, host, config, used_before)
    write(options.out, figures)
    errors: list[float] = []
    figures["contention"] = await contention(host, options, errors)
    figures["predict_error"] = _share(errors)
    write(options.out, figures)
    figures["naps"] = await naps(host) if options.sleep else None
    write(options.out, figures)
    figures["admission"] = await admission(host, config, options)
    write(options.out, figures)


if __name__ == "__main__":
    main()
