"""`python -m benchmarks.soak --minutes 60`: a host under steady chats, and whether anything grows.

Memory, file descriptors and threads of every process, Redis's own memory and keys, every few seconds; the slopes are
fitted after the warm-up. Writes docs/benchmarks/soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import linear_regression
from time import monotonic
from typing import Any

import psutil

from benchmarks.output import write
from tests.faults.harness.client import Client, Observation, Outcome
from tests.faults.harness.load import jobs
from tests.faults.harness.scene import FaultScene, supervised

SAMPLE_S = 5.0
WARM_UP = 1 / 3  # of the run; interpreters and allocators grow until then
REPLY_KEEP_S = 30  # so that Redis forgets as fast as it stores
DRAIN_S = 60.0
SESSIONS = 50  # of each tenant: a session, and an Idempotency-Key, are remembered for hours
NAMES = {
    "services.jobs": "jobs",
    "services.worker": "worker",
    "services.engines.llamacpp_server": "engine",
    "gateway": "gateway",
    "scheduler": "scheduler",
}


@dataclass
class Series:
    """One thing over time."""

    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at_s: float, value: float) -> None:
        self.at_s.append(at_s)
        self.values.append(value)

    def figures(self, after_s: float) -> dict[str, float]:
        """First and last after the warm-up, and the slope for an hour."""
        kept = [(at_s, value) for at_s, value in zip(self.at_s, self.values, strict=True) if at_s >= after_s]
        slope = linear_regression(*zip(*kept, strict=True)).slope if len(kept) > 2 else 0.0
        return {"first": round(kept[0][1], 2), "last": round(kept[-1][1], 2), "per_hour": round(slope * 3600, 2)}


def named(process: psutil.Process) -> str:
    """What a process of the host is called here."""
    line = process.cmdline()
    if line and "valkey" in line[0]:
        return "redis"
    return next((name for module, name in NAMES.items() if module in line), "supervisor" if "up" in line else "other")


def family(pid: int) -> Iterator[psutil.Process]:
    """The host's processes."""
    parent = psutil.Process(pid)
    yield parent
    yield from parent.children(recursive=True)


async def sample(scene: FaultScene, series: dict[str, Series], at_s: float) -> None:
    """One look at everything."""
    for process in family(scene.pid):
        with contextlib.suppress(psutil.Error):
            name = named(process)
            series[f"{name} rss_mb"].add(at_s, process.memory_info().rss / 1e6)
            series[f"{name} fds"].add(at_s, process.num_fds())
            series[f"{name} threads"].add(at_s, process.num_threads())
    async with scene.redis_now() as connection:
        series["redis used_mb"].add(at_s, (await connection.redis.info("memory"))["used_memory"] / 1e6)
        series["redis keys"].add(at_s, await connection.redis.dbsize())


async def chats(client: Client, per_s: float, until_s: float) -> list[Observation]:
    """Chats at a steady rate, each ended before this returns."""
    observed: list[Observation] = []
    running: set[asyncio.Task[None]] = set()
    number = 0
    while monotonic() < until_s:
        job = jobs(2, 1.0, f"soak {number}", tokens=(4, 12, 32))[number % 2]
        one = Observation(replace(job, key=f"session-{number % SESSIONS}", keyed=False))
        number += 1
        observed.append(one)
        task = asyncio.create_task(client.have(one))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(1 / per_s)
    if running:
        await asyncio.wait(running, timeout=DRAIN_S)
    return observed


async def soak(minutes: float, per_s: float) -> dict[str, Any]:
    """The whole run."""
    series: dict[str, Series] = defaultdict(Series)
    with tempfile.TemporaryDirectory(prefix="bh-soak-") as folder:
        async with supervised(Path(folder), reply_keep_s=REPLY_KEEP_S) as scene:
            began_s = monotonic()
            until_s = began_s + minutes * 60
            asking = asyncio.create_task(chats(scene.client(), per_s, until_s))
            while monotonic() < until_s:
                await sample(scene, series, monotonic() - began_s)
                await asyncio.sleep(SAMPLE_S)
            observed = await asking
    outcomes = Counter(one.outcome.value for one in observed)
    after_s = minutes * 60 * WARM_UP
    return {
        "minutes": minutes,
        "chats": len(observed),
        "chats_per_s": per_s,
        "outcomes": dict(outcomes),
        "longest_stall_s": round(max((one.stall_s for one in observed), default=0.0), 2),
        "series": {name: one.figures(after_s) for name, one in sorted(series.items())},
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| what | after warm-up | at the end | per hour |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {one['first']} | {one['last']} | {one['per_hour']:+} |" for name, one in figures.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when a chat was lost."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--per-s", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/soak.json"))
    wanted = parser.parse_args(argv)
    figures = asyncio.run(soak(wanted.minutes, wanted.per_s))
    print(table(figures["series"]))
    write(wanted.out, figures)
    return 1 if figures["outcomes"].get(Outcome.LOST.value) else 0


if __name__ == "__main__":
    raise SystemExit(main())
