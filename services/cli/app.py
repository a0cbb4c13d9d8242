"""All commands of `bunkhouse`, by name. What a command needs is imported when it runs: `--help` stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="bunkhouse",
    help="Many customers' support chatbots on one GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The host's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(config: ConfigPath, as_json: AsJson = False) -> None:
    """Start a host and keep it up until Ctrl-C."""
    from services.cli.up import run  # noqa: PLC0415

    run(config, as_json)


@app.command()
def plan(config: ConfigPath, as_json: AsJson = False) -> None:
    """Say what each model takes, what fits, and what would fit at other KV bits."""
    from services.cli.plan import run  # noqa: PLC0415

    run(config, as_json)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Say which version this is, of what it runs on, too."""
    from services.cli.version import run  # noqa: PLC0415

    run(as_json)
