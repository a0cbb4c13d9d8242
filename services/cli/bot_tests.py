"""`bunkhouse tests show|import|export|run|report TENANT/BOT`: a bot's test set, by the running host's admin API."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from services.cli.bot_api import API, AsJson, Bot, BotApi, ConfigOption, bot_api
from services.cli.errors import WRONG_INPUT, fail, out
from services.contracts.bot_tests import BadTestSet, BotQuestions, BotTestReport, as_csv, as_yaml, parse_csv, parse_yaml

LOOK_S = 1.0
OPEN = ("queued", "running")

app = typer.Typer(
    help="Keep a bot's test set, and run it at 16, 8 and 4 KV bits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="NAME.yaml or NAME.csv.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="As `bunkhouse tests run` shows it.")]


@app.command("import")
def import_(bot: Bot, file: File, config: ConfigOption = None) -> None:
    """Keep a file's questions in place of the bot's test set."""
    try:
        text = file.read_text(encoding="utf-8")
        questions = parse_csv(text) if _is_csv(file) else parse_yaml(text)
    except (OSError, UnicodeDecodeError, BadTestSet) as error:
        fail(f"{file}: {error}", WRONG_INPUT)
    with bot_api(bot, config, "tests") as api:
        api.ask("PUT", json=questions.model_dump(mode="json", exclude_defaults=True))
    out.print(f"{bot} has {len(questions.questions)} questions", highlight=False)


@app.command()
def export(bot: Bot, file: File, config: ConfigOption = None) -> None:
    """Write the bot's test set into a file; it is replaced if it exists."""
    with bot_api(bot, config, "tests") as api:
        questions = BotQuestions.model_validate(api.ask("GET"))
    file.write_text(as_csv(questions) if _is_csv(file) else as_yaml(questions), encoding="utf-8")
    out.print(f"{len(questions.questions)} questions", highlight=False)


@app.command()
def show(bot: Bot, config: ConfigOption = None, as_json: AsJson = False) -> None:
    """Print the bot's test set."""
    with bot_api(bot, config, "tests") as api:
        found = api.ask("GET")
    if as_json:
        out.print_json(data=found)
    else:
        out.print(as_yaml(BotQuestions.model_validate(found)), end="", highlight=False, markup=False)


@app.command()
def run(
    bot: Bot,
    *,
    bits: Annotated[list[int] | None, typer.Option("--bits", help="16, 8 or 4; may be given again.")] = None,
    switch: Annotated[
        bool, typer.Option("--switch", help="Change the model's KV bits for it, and back in the end.")
    ] = False,
    config: ConfigOption = None,
    as_json: AsJson = False,
) -> None:
    """Run the test set and print its report; exit code 1 where an answer is wrong."""
    args = {"bot": bot, "bits": bits or [16, 8, 4], "switch": switch}
    with bot_api(bot, config, "tests") as api:
        job = api.raw("POST", f"{API}/jobs", json={"kind": "bot_test", "args": args}).json()
        job = _ended(api, job)
        if job["state"] != "succeeded":
            fail(f"{job['id']} {job['state']}: {job['error'] or job['words']}")
        found = api.raw("GET", f"{API}/jobs/{job['id']}/report").json()
    _print(found, as_json)
    if not all(verdict.right for judged in _read(found).questions for verdict in judged.verdicts):
        raise typer.Exit(1)


@app.command()
def report(job: JobId, config: ConfigOption = None, as_json: AsJson = False) -> None:
    """Print the report of an earlier run."""
    with bot_api("any/bot", config, "tests") as api:
        found = api.raw("GET", f"{API}/jobs/{job}/report").json()
    _print(found, as_json)


def _is_csv(file: Path) -> bool:
    if file.suffix.lower() not in (".yaml", ".yml", ".csv"):
        fail(f"{file}: the name must end with .yaml or .csv", WRONG_INPUT)
    return file.suffix.lower() == ".csv"


def _ended(api: BotApi, job: dict[str, Any]) -> dict[str, Any]:
    while job["state"] in OPEN:
        time.sleep(LOOK_S)
        job = api.raw("GET", f"{API}/jobs/{job['id']}").json()
    return job


def _read(found: object) -> BotTestReport:
    return BotTestReport.model_validate(found)


def _print(found: object, as_json: bool) -> None:
    if as_json:
        out.print_json(data=found)
        return
    read = _read(found)
    table = Table("question", *(f"{bits} bits" for bits in read.bits), "what is wrong", box=None, pad_edge=False)
    for judged in read.questions:
        signs = ["right" if verdict.right else "wrong" for verdict in judged.verdicts]
        wrong = "\n".join(f"{verdict.bits} bits: {why}" for verdict in judged.verdicts for why in verdict.wrong)
        table.add_row(judged.question.id, *signs, Text(wrong))
    out.print(table)
    for bits in read.bits:
        out.print(f"{bits} bits: {read.right(bits)} of {len(read.questions)} right", highlight=False)
    for bits, why in read.left_out.items():
        out.print(f"{bits} bits were not tried: {why}", highlight=False, markup=False)
