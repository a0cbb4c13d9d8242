"""`bunkhouse prove`."""

from __future__ import annotations

import asyncio
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import psutil
import typer
from rich.console import Console

from services.config.schema import Config, ConfigError, load, parse_bytes
from services.engines.base import EngineError
from services.model_files.weights import WeightsError
from services.tokenizer.tokenizer import TokenizerError

from .page import as_json, write
from .results import LatencyTargets, Results, Settings
from .study import Study, cores
from .subject import Subject, subject_of


def run(
    config_path: Path,
    *,
    card: str | None,
    model: str | None,
    out: Path,
    quick: bool,
    first_token_s: float | None,
    inter_token_ms: float | None,
    print_json: bool,
) -> None:
    """Measure and write the report; prints where it lies. Exits with 2 for what cannot be measured."""
    console = Console(stderr=True)
    begun = time.perf_counter()

    def say(words: str) -> None:
        console.print(f"[dim]{time.perf_counter() - begun:5.0f} s[/dim]  {words}", highlight=False)

    try:
        config = load(config_path)
        subject = subject_of(config, model, out)
        targets = _targets(subject, first_token_s, inter_token_ms)
        results = _new_results(config, subject, card, targets, Settings.quick() if quick else Settings())
        results = asyncio.run(Study(subject, results, say).run())
    except (ConfigError, WeightsError, TokenizerError, EngineError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    paths = write(results, out)
    if print_json:
        typer.echo(orjson.dumps(as_json(results)).decode())
    else:
        typer.echo(f"report: {paths[0]}\nas text: {paths[1]}\nraw values: {paths[2]}")


def _new_results(
    config: Config, subject: Subject, card: str | None, targets: LatencyTargets, settings: Settings
) -> Results:
    """Results with nothing measured yet. Raises ValueError for a card that is not a size."""
    models = len(config.models)
    set_card = parse_bytes(card) if card is not None else config.memory.card
    card_bytes = 0 if set_card == "auto" else int(set_card)
    said = "--card" if card else "memory.card of the configuration"
    return Results(
        model=subject.name,
        engine=subject.settings.engine,
        weights=subject.settings.weights,
        machine=f"{platform.system()} {platform.machine()}, {cores()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB memory",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        card_bytes=card_bytes,
        card_models=models,
        card_said=said if card_bytes else f"what {models} such model{'s' * (models > 1)} take at 16 bits",
        reserve=config.memory.reserve,
        targets=targets,
        settings=settings,
    )


def _targets(subject: Subject, first_token_s: float | None, inter_token_ms: float | None) -> LatencyTargets:
    """What was asked for, else the model's own targets, else the usual ones."""
    own, usual = subject.settings.targets, LatencyTargets()
    return LatencyTargets(
        first_token_s=first_token_s or own.first_token_s_max or usual.first_token_s,
        inter_token_s=(inter_token_ms or own.inter_token_ms_max or usual.inter_token_s * 1000) / 1000,
    )
