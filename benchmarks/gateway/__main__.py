"""`make bench-gateway`: what Bunkhouse and the LiteLLM proxy add to a chat, in one run on the same two cores.

The engine and the client run on core 1, the stack that is measured on core 0; for `streams_2core` the stack may use
both. Added times are medians or percentiles of the stack minus those of the engine alone in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import uvloop

from benchmarks.gateway import stacks
from benchmarks.gateway.client import TOKENS, Client, Seen, at_once, requests_per_s, spread
from benchmarks.gateway.stacks import ENGINE_CPU, STACK_CPU, Stack
from benchmarks.output import write
from services.evidence.statistics import percentile
from services.process.ports import free_port

Figures = dict[str, float | None]
LATE_S = 0.100


async def measure(stack: Stack, rounds: int) -> Figures:
    """First-token times at 1, 16 and 64 chats at once, token gaps at 200, and short requests a second."""
    client = Client(stack)
    await at_once(client, 4, 8)
    figures: Figures = {}
    one = [seen.first_s for seen in await at_once(client, 1, rounds, tokens=4)]
    figures["first_p50_c1"], figures["first_p99_c1"] = statistics.median(one), percentile(one, 0.99)
    for clients in (4, 16, 64):
        seen = await at_once(client, clients, clients * 4)
        check(stack, seen)
        figures[f"first_p99_c{clients}"] = percentile([item.first_s for item in seen], 0.99)
    figures["requests_per_s"] = await requests_per_s(client, 32, 5.0)
    figures["rss_mb"] = stack.rss_mb()
    return figures


async def gaps(stack: Stack, streams: int) -> float:
    """99th percentile of the time between two tokens, seconds, at `streams` steady streams."""
    seen = await spread(Client(stack), streams)
    check(stack, seen)
    return percentile([b - a for item in seen for a, b in zip(item.times_s, item.times_s[1:], strict=False)], 0.99)


def check(stack: Stack, seen: list[Seen]) -> None:
    """A stack that loses or repeats a token has no figures."""
    broken = [item for item in seen if item.status != 200 or not item.whole]
    if broken:
        raise RuntimeError(f"{stack.name}: {len(broken)} of {len(seen)} streams broken, e.g. {broken[0]}")


async def sustained(stack: Stack, candidates: tuple[int, ...]) -> int:
    """Most steady streams with every token in order and none later than `LATE_S` after the engine's pace."""
    best = 0
    for streams in candidates:
        seen = await spread(Client(stack), streams)
        settled = seen[len(seen) // 6 :]
        late = max(
            time_s - item.times_s[0] - number * 0.02
            for item in settled
            for number, time_s in enumerate(item.times_s or [9.0])
        )
        if any(not item.whole for item in seen) or late > LATE_S:
            return best
        best = streams
    return best


async def compare(rounds: int, with_litellm: bool) -> Figures:
    """All figures of the issue."""
    engine_port = free_port()
    seen: dict[str, Figures] = {}
    with stacks.engine(engine_port) as direct:
        seen["direct"] = await measure(direct, rounds)
        seen["direct"]["gap"] = await gaps(direct, 200)
        builders: dict[str, Callable[[int, int, set[int]], AbstractContextManager[Stack]]] = {
            "bunkhouse": stacks.bunkhouse
        }
        if with_litellm:
            builders["litellm"] = stacks.litellm
        for name, build in builders.items():
            with build(engine_port, free_port(), {STACK_CPU}) as stack:
                idle_mb = stack.rss_mb()
                seen[name] = await measure(stack, rounds)
                seen[name]["idle_mb"] = idle_mb
                if name == "bunkhouse":
                    seen[name]["gap"] = await gaps(stack, 200)
        with stacks.bunkhouse(engine_port, free_port(), {STACK_CPU, ENGINE_CPU}) as stack:
            streams = await sustained(stack, (100, 200, 300, 400, 500, 600))
    return figures_of(seen, streams)


def figures_of(seen: dict[str, Figures], streams: int) -> Figures:
    """Differences to the engine alone, in milliseconds."""
    direct, ours, theirs = seen["direct"], seen["bunkhouse"], seen.get("litellm", {})

    def added(of: Figures, name: str) -> float | None:
        value, base = of.get(name), direct[name]
        return round((value - base) * 1000, 3) if value is not None and base is not None else None

    figures: Figures = {
        "added_p50_ms": added(ours, "first_p50_c1"),
        "litellm_added_p50_ms": added(theirs, "first_p50_c1"),
    }
    for clients in (1, 4, 16, 64):
        figures[f"added_p99_ms_c{clients}"] = added(ours, f"first_p99_c{clients}")
        figures[f"litellm_added_p99_ms_c{clients}"] = added(theirs, f"first_p99_c{clients}")
    figures["requests_per_s_core"] = round(ours["requests_per_s"] or 0, 1)
    figures["litellm_requests_per_s_core"] = round(theirs["requests_per_s"] or 0, 1) if theirs else None
    figures["requests_ratio"] = (
        round((ours["requests_per_s"] or 0) / (theirs["requests_per_s"] or 1), 2) if theirs else None
    )
    figures["added_intertoken_p99_ms"] = added(ours, "gap")
    figures["streams_2core"] = streams
    figures["rss_mb"] = round(ours["idle_mb"] or 0, 1)
    return figures


def main() -> None:
    """Measure, print, write docs/benchmarks/gateway.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--no-litellm", action="store_true", help="for a quick look while tuning")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/gateway.json"))
    options = parser.parse_args()
    os.sched_setaffinity(0, {ENGINE_CPU})
    print(f"{TOKENS} tokens a chat, one every 20 ms", file=sys.stderr)
    figures = uvloop.run(compare(options.rounds, not options.no_litellm))
    write(options.out, figures)


if __name__ == "__main__":
    main()
