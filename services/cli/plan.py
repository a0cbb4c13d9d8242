"""`bunkhouse plan CONFIG`."""

from __future__ import annotations

from pathlib import Path

import typer

from services.cli.errors import FAILED, out, reported_errors
from services.config.schema import check_documents, load
from services.planner.plan import plan, planned_shape
from services.planner.table import show
from services.planner.words import as_json


def run(config_path: Path, json: bool) -> None:
    """Print the plan. Exit code 1 when it does not fit, or leaves a model out."""
    with reported_errors():
        config = load(config_path)
        check_documents(config)
        planned = plan(config, planned_shape)
    if json:
        out.print_json(data=as_json(planned))
    else:
        show(planned, out)
    if not planned.fits or planned.left_out:
        raise typer.Exit(FAILED)
