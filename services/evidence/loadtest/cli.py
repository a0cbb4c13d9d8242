"""`bunkhouse loadtest`, `report`, `compare` and `prove`."""

from __future__ import annotations

import asyncio
import platform
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console

from services.config.yaml_file import ConfigError, YamlFile
from services.contracts.scenario import Scenario
from services.http_stream.client import StreamClient
from services.process.children import raise_open_files_limit

from .compare import ComparisonRow, render_comparison
from .compare import compare as compare_runs
from .figures import summary
from .meter import watch
from .progress import run_with_progress
from .record import Run, RunFileError, RunWriter, read_run
from .report import render_report
from .runner import Runner
from .stream import CountTokens

app = typer.Typer(help="Load tests against any OpenAI-compatible server.", no_args_is_help=True)

SPARE_FILES = 64  # open files that are no streams


@app.command()
def loadtest(
    scenario: Annotated[Path, typer.Argument(help="The scenario's YAML file.")],
    url: Annotated[str | None, typer.Option(help="API base, such as http://127.0.0.1:8000/v1.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for run.jsonl and report.html.")] = Path("loadtest-out"),
    duration_s: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds of load, instead of the scenario's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Run a scenario; write one JSON line per chat and an HTML report."""
    try:
        plan = _changed(YamlFile(scenario).read_as(Scenario), url, duration_s)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            path = loop.run(run_scenario(plan, out, Console(stderr=True)))
    except (ConfigError, ValueError) as error:
        raise _complaint(str(error)) from error
    run = read_run(path)
    page = out / "report.html"
    page.write_text(render_report(run), encoding="utf-8")
    _show(run, as_json)
    if not as_json:
        typer.echo(f"report: {page}\nrecords: {path}")


@app.command()
def report(
    run_file: Annotated[Path, typer.Argument(help="A run's run.jsonl.")],
    out: Annotated[Path | None, typer.Option(help="The page. Default: report.html beside the run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead.")] = False,
) -> None:
    """Write the HTML report of a run again, or print its figures."""
    run = _read(run_file)
    _show(run, as_json)
    if as_json:
        return
    page = out or run_file.with_name("report.html")
    page.write_text(render_report(run), encoding="utf-8")
    typer.echo(f"report: {page}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The run to compare with.")],
    b: Annotated[Path, typer.Argument(help="The run that changed something.")],
    out: Annotated[Path | None, typer.Option(help="Write the comparison as an HTML page, too.")] = None,
) -> None:
    """Compare two runs, and name the differences that are beyond chance."""
    runs = _read(a), _read(b)
    headings = ComparisonRow("measure", "A", "B", "change", "verdict")
    for row in (headings, *compare_runs(*runs)):
        typer.echo(f"{row.name:24} {row.a_text:>10} {row.b_text:>10} {row.change_text:>13}  {row.verdict}".rstrip())
    if out is None:
        typer.echo("Charts: add --out PAGE.html.")
        return
    out.write_text(render_comparison(*runs, str(a), str(b)), encoding="utf-8")
    typer.echo(f"report: {out}")


@app.command()
def prove(
    config: Annotated[Path, typer.Argument(help="A host's YAML file.")],
    *,
    card: Annotated[
        str | None,
        typer.Option(help="Memory to fill, such as 24GB. Default: memory.card, else what the models take at 16 bits."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which of its models. Default: the first.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for prove.html, prove.md and prove.json.")] = Path("prove-out"),
    quick: Annotated[bool, typer.Option(help="A fifth of the work, for a first look.")] = False,
    first_token_s: Annotated[float | None, typer.Option(min=0.001, help="Latency target.")] = None,
    inter_token_ms: Annotated[float | None, typer.Option(min=0.001, help="Latency target.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the values as JSON.")] = False,
) -> None:
    """Measure memory, capacity, speed and quality at 16, 8 and 4 KV bits, beside the article's claims."""
    from services.evidence.prove.cli import run  # noqa: PLC0415  (a load test needs no engine)

    run(
        config,
        card=card,
        model=model,
        out=out,
        quick=quick,
        first_token_s=first_token_s,
        inter_token_ms=inter_token_ms,
        print_json=as_json,
    )


def _changed(plan: Scenario, url: str | None, duration_s: float | None) -> Scenario:
    """The scenario with what the command line says instead. Raises ValueError."""
    changes = {"url": url, "duration_s": duration_s}
    try:
        return Scenario.model_validate(plan.model_dump() | {k: v for k, v in changes.items() if v is not None})
    except ValidationError as error:
        words = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"--duration-s {duration_s:g}: {words}") from error


async def run_scenario(scenario: Scenario, out: Path, console: Console) -> Path:
    """Run `scenario` and write `out`/run.jsonl. Raises ValueError for a key or limit that is missing."""
    files_max = raise_open_files_limit()
    if scenario.streams_max + SPARE_FILES > files_max:
        raise ValueError(
            f"streams_max is {scenario.streams_max}, but this process may open {files_max} files: lower it, or "
            "raise the limit (ulimit -Hn)"
        )
    head = {
        "scenario": scenario.model_dump(mode="json", exclude={"tenants": {"__all__": {"key"}}}),
        "url": scenario.url,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.system(), "cpu": platform.machine(), "python": platform.python_version()},
    }
    path = out / "run.jsonl"
    http = StreamClient(scenario.url, time.perf_counter)
    writer = RunWriter(path, head)
    try:
        runner = Runner(
            scenario,
            http,
            time.perf_counter,
            run_id=secrets.token_hex(4),
            on_record=writer.add,
            count_tokens=_counter(scenario.tokenizer),
        )
        await run_with_progress(runner, console, scenario.duration_s, watch(http, runner.now, writer.sample))
    finally:
        http.close()
        writer.close()
    return path


def _counter(weights: str | None) -> CountTokens | None:
    """The named model's tokenizer as a function. Raises ValueError where there is none that is exact."""
    if weights is None:
        return None
    from services.model_files.weights import WeightsError, resolve  # noqa: PLC0415
    from services.tokenizer.tokenizer import load_tokenizer  # noqa: PLC0415  (a load test of a foreign server needs none)

    try:
        tokenizer = load_tokenizer(resolve(weights))
    except WeightsError as error:
        raise ValueError(str(error)) from error
    if not tokenizer.exact:
        raise ValueError(f"tokenizer {weights!r}: its family is unknown, so texts cannot be checked with it")
    return tokenizer.count


def _show(run: Run, as_json: bool) -> None:
    found = summary(run)
    if as_json:
        typer.echo(orjson.dumps(found.as_json()).decode())
        return
    total = found.total
    typer.echo(f"{total.chats} chats: {', '.join(f'{n} {r}' for r, n in total.results.items())}")
    if warmup_s := found.scenario.warmup_s:
        early = sum(chat.intended_s < warmup_s for chat in run.chats)
        typer.echo(f"{early} more in the warm-up are not counted")
    first = total.first_token
    if first.count:
        typer.echo(f"first token: median {first.p50:.3f} s, p95 {first.p95:.3f} s, p99 {first.p99:.3f} s")
    typer.echo(
        f"good: {total.good_share:.1%}, {total.goodput_chats_per_s:.3g} chats/s; "
        f"{total.tokens_per_s:.1f} tokens/s; lost {total.lost}, doubled {total.doubled}"
    )
    for reason, number in total.reasons.items():
        typer.echo(f"  {number} x {reason}")


def _read(path: Path) -> Run:
    try:
        return read_run(path)
    except RunFileError as error:
        raise _complaint(str(error)) from error


def _complaint(text: str) -> typer.Exit:
    typer.echo(text, err=True)
    return typer.Exit(2)
