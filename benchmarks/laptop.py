"""The step-time model on a machine without a GPU: `python -m benchmarks.laptop`.

Two llama.cpp engines of SmolLM2-135M share the machine's cores and memory, as in examples/laptop.yaml. At each level
(one or both engines busy, one or all four chats on each) the scheduler's predicted time a token is compared with the
engines' own. Last line: one JSON object; the same, with the machine's name, goes to docs/benchmarks/laptop.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu import load
from benchmarks.gpu.workers import weighed
from benchmarks.output import write
from services.contracts.devices import CPU
from services.evidence.statistics import percentile
from services.store.bandwidth import read_measured
from services.store.connection import Connection
from services.store.runtime import open_runtime
from services.store.submission import SubmissionClient
from tests.host_process import LAPTOP, HostProcess, run_host

RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks" / "laptop.json"
BOTS = {"smollm2-kv8": "acme/support", "smollm2-kv4": "globex/returns"}
PROMPT, ANSWER = 64, 200  # tokens
SETTLE_S = 6.0  # an engine's pace is a mean over the last five seconds
Pairs = dict[str, list[tuple[float, float]]]


async def watch(connection: Connection, seen: Pairs) -> None:
    """Once a second each busy model's predicted and observed time a token, in ms, until cancelled."""
    await asyncio.sleep(SETTLE_S)
    while True:
        snapshot = await SubmissionClient(connection).snapshot()
        for name, model in snapshot.models.items() if snapshot else ():
            if model.running and model.predicted_inter_token_s and model.observed_inter_token_s:
                pair = (model.predicted_inter_token_s * 1000, model.observed_inter_token_s * 1000)
                seen.setdefault(name, []).append((round(pair[0], 3), round(pair[1], 3)))
        await asyncio.sleep(1)


async def level(
    host: HostProcess, connection: Connection, models: int, clients: int, seconds: float
) -> Mapping[str, object]:
    """`clients` chats at a time with each of the first `models` models."""
    seen: Pairs = {}
    watching = asyncio.create_task(watch(connection, seen))
    sizes = {"prompt_tokens": PROMPT, "max_tokens": ANSWER}
    loops = (load.closed_loop(host, bot, clients, seconds, **sizes) for bot in list(BOTS.values())[:models])
    together = load.together(await asyncio.gather(*loops))
    watching.cancel()
    predictions = {name: found for name, found in weighed(seen).items() if name in list(BOTS)[:models]}
    return {"models": models, "clients": clients, **load.figures(together), "predictions": predictions}


def errors(levels: list[Mapping[str, object]]) -> list[float]:
    """Of each level and model: how far the mean prediction is from the mean observation, as a part of it."""
    found = [one["predictions"] for one in levels]
    return [float(model["error"]) for models in found if isinstance(models, dict) for model in models.values()]


async def measure(host: HostProcess, config: Path, seconds: float) -> Mapping[str, object]:
    """All levels, after one that is not counted, in which the scheduler learns."""
    runtime = open_runtime(config)
    async with runtime.connect() as connection:
        bandwidth = (await read_measured(connection))[CPU]
        await level(host, connection, 2, 2, seconds)
        levels = [await level(host, connection, *sizes, seconds) for sizes in ((1, 1), (2, 1), (1, 4), (2, 4))]
    found = errors(levels)
    return {
        "predict_error": percentile(found, 0.5),
        "predict_error_worst": max(found),
        "bandwidth_bytes_per_s": round(bandwidth),
        "load_average": os.getloadavg(),
        "levels": levels,
    }


def main() -> None:
    """Start the host, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each level")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bh-laptop-") as name:
        folder = Path(name)
        config = folder / "laptop.yaml"
        config.write_text(f"data_dir: {folder}/data\n{LAPTOP.read_text()}")
        with run_host(folder / "data", config) as host:
            figures = asyncio.run(measure(host, config, options.seconds))
    write(options.out, figures)


if __name__ == "__main__":
    main()
