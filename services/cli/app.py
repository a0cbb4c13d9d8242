"""All commands of `bunkhouse`. A command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Callable
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


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the versions, and exit.", is_eager=True)
    ] = False,
) -> None:
    """Many customers' support chatbots on one GPU."""
    if show_version:
        version()
        raise typer.Exit


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The host's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(config: ConfigPath, as_json: AsJson = False) -> None:
    """Start a host and keep it up until Ctrl-C."""
    from services.cli.up import run  # noqa: PLC0415

    run(config, as_json)


@app.command()
def plan(config: ConfigPath, as_json: AsJson = False) -> None:
    """Show each model's memory, whether all fit, and what would fit at other KV bits."""
    from services.cli.plan import run  # noqa: PLC0415

    run(config, as_json)


@app.command()
def chat(
    bot: Annotated[str, typer.Argument(metavar="TENANT/BOT", help="For example acme/support.")],
    *,
    config: Annotated[
        str | None, typer.Option(help="The host's YAML file. Default: that of the host running here.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Another host's address.")] = None,
    key: Annotated[str | None, typer.Option(envvar="BUNKHOUSE_API_KEY", help="An API key.", show_envvar=True)] = None,
    message: Annotated[str | None, typer.Option("-m", "--message", help="Send this one message.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.3,
    as_json: AsJson = False,
) -> None:
    """Talk to a bot in the terminal."""
    from services.cli.chat import run  # noqa: PLC0415

    run(bot, config=config, url=url, key=key, message=message, temperature=temperature, as_json=as_json)


@app.command()
def ps(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Default: that of the host running here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show processes, models and their KV memory."""
    from services.cli.ps import run  # noqa: PLC0415

    run(config, as_json)


@app.command()
def explain(
    chat: Annotated[str, typer.Argument(metavar="CHAT", help="A chat's id: chatcmpl-...")],
    config: Annotated[Path | None, typer.Option(help="Default: that of the host running here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain in numbers why a chat waits, runs or was refused."""
    from services.cli.explain import run  # noqa: PLC0415

    run(chat, config, as_json)


@app.command(hidden=True)
def seed(config: ConfigPath) -> None:
    """Fetch the weights, write tenants and keys into Redis (`up` does both itself)."""
    from services.cli.seed import run  # noqa: PLC0415

    run(config)


@app.command("export")
def export_(
    config: ConfigPath, file: Annotated[Path, typer.Argument(metavar="FILE", help="Is replaced if it exists.")]
) -> None:
    """Write what only Redis knows into a file: tenants, keys, admin keys, usage."""
    from services.cli.backup import run_export  # noqa: PLC0415

    run_export(config, file)


@app.command("import")
def import_(
    config: ConfigPath, file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")]
) -> None:
    """Put back what `export` wrote, after Redis lost its data."""
    from services.cli.backup import run_import  # noqa: PLC0415

    run_import(config, file)


@app.command()
def health(
    config: ConfigPath,
    part: Annotated[str, typer.Argument(metavar="PART", help="gateway, scheduler, jobs, or 'model NAME'.")],
) -> None:
    """Check one part of a running host; exit code 1 when it is not well."""
    from services.cli.health import run  # noqa: PLC0415

    run(config, part)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Show the versions of this host, its engines and its Python."""
    from services.cli.version import run  # noqa: PLC0415

    run(as_json)


def _forward(name: str, words: str, call: Callable[[str, list[str]], None]) -> None:
    """A command that reads its own options and is imported when it is called."""

    @app.command(
        name,
        help=words,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def command(context: typer.Context) -> None:
        call(name, context.args)


def _evidence(name: str, words: list[str]) -> None:
    from services.evidence.loadtest.cli import app as tools  # noqa: PLC0415

    tools([name, *words], prog_name="bunkhouse")


def _knowledge(name: str, words: list[str]) -> None:
    from services.cli.knowledge import app as tools  # noqa: PLC0415

    tools(words or ["--help"], prog_name=f"bunkhouse {name}")


def _tests(name: str, words: list[str]) -> None:
    from services.cli.bot_tests import app as tools  # noqa: PLC0415

    tools(words or ["--help"], prog_name=f"bunkhouse {name}")


_forward("loadtest", "Run a load test against any OpenAI-compatible server.", _evidence)
_forward("report", "Show a load test's figures.", _evidence)
_forward("compare", "Compare two load tests.", _evidence)
_forward("prove", "Measure memory, capacity, speed and quality at 16, 8 and 4 KV bits on this machine.", _evidence)
_forward("knowledge", "Add, list, search and remove what a bot knows.", _knowledge)
_forward("tests", "Keep a bot's test set, and run it at 16, 8 and 4 KV bits.", _tests)
