"""KV planes against SGLang's own caches on a GPU: kernels alone, decode steps, prefill, demotion.

    python -m benchmarks.gpu.kvplanes --models FOLDER --out docs/benchmarks/kvplanes.json

FOLDER holds weightless model folders (config and tokenizer; SGLang fills them with dummy weights): speed and memory
depend on shapes alone. Every engine configuration runs in a process of its own, one after another on the GPU, and with
``--repeat`` several times, of which the least milliseconds count: other work of the machine only adds to them. Requests
get a cache of random codes in place of a prefill, so that only decoding is timed; a step is timed as SGLang's own
``bench_one_batch`` does it, the host's work included, and by GPU events around the forward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.kvplanes_figures import named
from benchmarks.gpu.kvplanes_runs import BATCH, CACHES, RUNS, Run
from benchmarks.output import keep, write
from services.engines.kvplanes_site import plugin_environment
from services.kvplanes.config import KVPlanesConfig


def worker(run: Run, models: Path, scratch: Path, turn: int) -> subprocess.Popen[bytes]:
    """Start one configuration's process; it waits its turn for the GPU."""
    environment = dict(os.environ)
    if CACHES[run.cache].bits:
        config = KVPlanesConfig(bits=CACHES[run.cache].bits)
        environment = plugin_environment(config, scratch / "site", environment)
    command = [sys.executable, "-m", "benchmarks.gpu.kvplanes_worker", str(models / run.model)]
    result = result_path(run, scratch, turn)
    log = result.with_suffix(".log").open("wb")
    environment |= {"KVPLANES_TURN": str(scratch / "turn"), "KVPLANES_RESULT": str(result)}
    environment["KVPLANES_RUN"] = run.to_json()
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def result_path(run: Run, scratch: Path, turn: int) -> Path:
    """Where a worker leaves its figures."""
    return scratch / f"{run.name.replace(' ', '-')}-{turn}.json"


def forget(scratch: Path) -> None:
    """Remove what an earlier run left: a turn that a worker would take for its own, figures that are not this run's."""
    for path in (scratch / "turn-of", *scratch.glob("*.json")):
        path.unlink(missing_ok=True)


def faster(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The figures of two runs of one configuration: the lesser milliseconds, and for the rest the later run's."""
    both = {key: min(one[key], other[key]) for key in one.keys() & other.keys() if key.endswith("_ms")}
    return {**one, **other, **both}


def chosen(names: str) -> list[Run]:
    """The runs named, in that order; all of them for an empty string. Raises SystemExit for a name that is unknown."""
    by_name = {run.name: run for run in RUNS}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(by_name)
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise SystemExit(f"unknown runs {unknown}; known: {', '.join(by_name)}")
    return [by_name[name] for name in wanted]


def gpu_name() -> str:
    """The GPU, as its driver names it; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def run_engines(runs: list[Run], options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Run every configuration in turn, into ``figures["engines"]``."""
    turns = [(run, turn) for turn in range(options.repeat) for run in runs]
    processes = [(run, turn, worker(run, options.models, options.scratch, turn)) for run, turn in turns]
    deadline = time.monotonic() + options.seconds
    if options.first:
        subprocess.run(options.first, shell=True, check=False)
    if options.kernels:
        from benchmarks.gpu import kvplanes_kernels  # needs torch and a GPU

        figures["kernels"] = kvplanes_kernels.measure()
        keep(options.out, figures)
    for run, turn, process in processes:
        path = result_path(run, options.scratch, turn)
        (options.scratch / "turn-of").write_text(path.name)
        try:
            process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if path.exists():
            engines = figures["engines"]
            engines[run.name] = faster(engines.get(run.name, {}), json.loads(path.read_text()))
        passed = time.monotonic() - deadline + options.seconds
        print(f"{run.name}: exit status {process.returncode}, {passed:.0f} s", flush=True)
        keep(options.out, figures)


def main() -> None:
    """Run every configuration and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/kvplanes.json"))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/kvplanes"))
    parser.add_argument("--seconds", type=float, default=540.0, help="stop waiting for configurations after this long")
    parser.add_argument("--only", default="", help="names of configurations, separated by commas")
    parser.add_argument("--repeat", type=int, default=1, help="run every configuration so many times")
    parser.add_argument("--first", default="", help="a shell command to run before anything is timed")
    parser.add_argument("--kernels", action="store_true", help="time the decode kernels alone, too")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    forget(options.scratch)
    figures: dict[str, Any] = {"gpu": gpu_name(), "batch": BATCH, "engines": {}}
    run_engines(chosen(options.only), options, figures)
    figures["figures"] = named(figures)
    write(options.out, figures)


if __name__ == "__main__":
    main()
