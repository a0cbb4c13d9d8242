"""KV planes against SGLang's own caches on a GPU: kernels alone, decode steps, prefill, demotion.

    python -m benchmarks.gpu.kvplanes --models FOLDER --out docs/benchmarks/kvplanes.json

FOLDER holds weightless model folders (config and tokenizer; SGLang fills them with dummy weights): speed and memory
depend on shapes alone. Every engine configuration runs in a process of its own, one after another on the GPU. Requests
get a cache of random codes in place of a prefill, so that only decoding is timed; a step is timed as SGLang's own
``bench_one_batch`` does it, the host's work included, and by GPU events around the forward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.output import write
from services.engines.kvplanes_site import plugin_environment
from services.kvplanes.config import KVPlanesConfig

BATCH = 32


@dataclass(frozen=True)
class Run:
    """One engine configuration: a model folder, a cache (``kv4``, ``kv8`` or SGLang's dtype), contexts in tokens,
    whether prefill and demotion are measured, too, and how many requests decode at once."""

    model: str
    cache: str
    contexts: tuple[int, ...]
    prefill: bool = False
    demote: bool = False
    batch: int = BATCH

    @property
    def group(self) -> str:
        """What is compared: a model and, where it is another than BATCH, the number of requests."""
        return self.model if self.batch == BATCH else f"{self.model}, {self.batch} requests"

    @property
    def name(self) -> str:
        return f"{self.group} {self.cache}"


VARIANTS: dict[str, dict[str, object]] = {
    "all_registers": {"maxnreg": None, "places": 2, "waves": 8},
    "fine_128": {"fine_block": 128, "fine_stages": 3},
}
RUNS = (
    Run("qwen2.5-7b", "kv4", (1024, 4096, 16384), prefill=True),
    Run("qwen2.5-7b", "auto", (1024, 4096, 16384), prefill=True),
    Run("qwen2.5-7b", "kv8", (1024, 4096, 16384), demote=True),
    Run("qwq-32b-awq", "kv4", (1024, 4096, 16384), prefill=True),
    Run("qwq-32b-awq", "auto", (1024, 4096), prefill=True),
    Run("qwq-32b-awq", "kv8", (1024, 4096), demote=True),
    # 16,384 tokens of 32 requests take 137 GB in bf16; those of 24 fit beside the weights on a card of 141 GB.
    *(Run("qwq-32b-awq", cache, (16384,), batch=24) for cache in ("kv4", "auto", "kv8", "fp8_e5m2")),
    Run("qwen2.5-7b", "fp8_e5m2", (1024, 4096, 16384)),
    Run("qwq-32b-awq", "fp8_e5m2", (1024, 4096)),
    Run("qwen2.5-7b", "fp4_mx_block16", (4096,)),
)


def worker(run: Run, models: Path, scratch: Path) -> subprocess.Popen[bytes]:
    """Start one configuration's process; it waits its turn for the GPU."""
    environment = dict(os.environ)
    if run.cache.startswith("kv"):
        config = KVPlanesConfig(bits=int(run.cache[2:]))
        environment = plugin_environment(config, scratch / "site", environment)
    command = [sys.executable, "-m", "benchmarks.gpu.kvplanes_worker", str(models / run.model), run.cache]
    command += [",".join(map(str, run.contexts)), str(int(run.prefill)), str(int(run.demote))]
    result = result_path(run, scratch)
    log = result.with_suffix(".log").open("wb")
    environment |= {"KVPLANES_TURN": str(scratch / "turn"), "KVPLANES_RESULT": str(result)}
    environment["KVPLANES_BATCH"] = str(run.batch)
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def result_path(run: Run, scratch: Path) -> Path:
    """Where a worker leaves its figures."""
    return scratch / f"{run.name.replace(',', '').replace(' ', '-')}.json"


def forget(scratch: Path) -> None:
    """Remove what an earlier run left: a turn that a worker would take for its own, figures that are not this run's."""
    for path in (scratch / "turn-of", *(result_path(run, scratch) for run in RUNS)):
        path.unlink(missing_ok=True)


def ratios(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Decode and prefill of planes against bf16, by model and context."""
    found: dict[str, float] = {}
    for run in RUNS:
        base = results.get(f"{run.group} auto", {})
        for key, value in results.get(run.name, {}).items():
            if run.cache != "auto" and key in base and key.endswith("_ms") and value:
                found[f"{run.name} {key.removesuffix('_ms')}"] = round(base[key] / value, 3)
    return found


def main() -> None:
    """Run every configuration and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/kvplanes.json"))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/kvplanes"))
    parser.add_argument("--seconds", type=float, default=400.0, help="stop waiting for configurations after this long")
    parser.add_argument("--only", default="", help="run only configurations whose name contains this")
    parser.add_argument("--first", default="", help="a shell command to run before anything is timed")
    parser.add_argument("--kernels", action="store_true", help="time the decode kernels alone, too")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    forget(options.scratch)
    deadline = time.monotonic() + options.seconds
    figures: dict[str, object] = {"batch": BATCH}
    results: dict[str, dict[str, float]] = {}
    figures["engines"] = results
    chosen = [run for run in RUNS if options.only in run.name]
    processes = [(run, worker(run, options.models, options.scratch)) for run in chosen]
    if options.first:
        subprocess.run(options.first, shell=True, check=False)
    if options.kernels:
        from benchmarks.gpu import kvplanes_kernels  # needs torch and a GPU

        figures["gpu"] = kvplanes_kernels.gpu_name()
        figures["kernels"] = kvplanes_kernels.measure(VARIANTS)
        write(options.out, figures)
    for run, process in processes:
        (options.scratch / "turn-of").write_text(result_path(run, options.scratch).name)
        try:
            process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        path = result_path(run, options.scratch)
        if path.exists():
            results[run.name] = json.loads(path.read_text())
        print(run.name, process.returncode, results.get(run.name), flush=True)
        figures["speedup_against_bf16"] = ratios(results)
        write(options.out, figures)


if __name__ == "__main__":
    main()
