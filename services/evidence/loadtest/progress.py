"""Live progress of a run: a table in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.evidence.charts import duration, plain
from services.evidence.statistics import spread

from .record import Result
from .runner import Runner

REFRESH_S = 0.5
PLAIN_LINE_S = 10.0
RECENT_S = 10.0


async def run_with_progress(
    runner: Runner, console: Console, duration_s: float, beside: Coroutine[Any, Any, None]
) -> None:
    """Run `runner` to its end, showing how it goes on `console`. `beside` runs as long, and is cancelled then."""
    run = asyncio.create_task(_run_beside(runner, beside))
    try:
        if console.is_terminal:
            with Live(_table(runner, duration_s), console=console, refresh_per_second=4) as live:
                while not run.done():
                    await asyncio.wait({run}, timeout=REFRESH_S)
                    live.update(_table(runner, duration_s))
        else:
            while not run.done():
                await asyncio.wait({run}, timeout=PLAIN_LINE_S)
                console.print(_line(runner, duration_s), highlight=False)
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
    run.result()


async def _run_beside(runner: Runner, beside: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(beside)
    try:
        await runner.run()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _line(runner: Runner, duration_s: float) -> str:
    tally = runner.tally
    counts = ", ".join(f"{number} {result}" for result, number in sorted(tally.results.items()))
    return f"{runner.now():.0f}/{duration_s:.0f} s: {tally.active} under way; {counts or 'none ended yet'}"


def _table(runner: Runner, duration_s: float) -> Table:
    tally, now = runner.tally, runner.now()
    recent = spread(tally.recent_first_tokens(now - RECENT_S))
    latency = (
        "no first token yet"
        if recent.p50 is None or recent.p95 is None
        else f"first token {duration(recent.p50)} median, {duration(recent.p95)} p95"
    )
    table = Table(
        title=f"{min(now, duration_s):.0f} of {duration_s:.0f} s · {tally.active} under way "
        f"(most {tally.active_max}) · {plain(tally.tokens / max(now, 0.001))} tokens/s",
        caption=f"last {RECENT_S:.0f} s: {latency}",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("tenant", "ok", "refused", "failed", "gone", "tokens"):
        table.add_column(column, justify="left" if column == "tenant" else "right")
    for name, tenant in sorted(tally.tenants.items()):
        r = tenant.results
        failed = r[Result.FAILED] + r[Result.BROKEN] + r[Result.UNFINISHED]
        cells = (r[Result.OK], r[Result.REFUSED], failed, r[Result.ABANDONED], tenant.tokens)
        table.add_row(name, *(str(c) for c in cells))
    return table
