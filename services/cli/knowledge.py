"""`bunkhouse knowledge add|faq|list|search|remove TENANT/BOT`: what a bot knows, by the running host's admin API."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from services.cli.bot_api import AsJson, Bot, ConfigOption, bot_api
from services.cli.errors import WRONG_INPUT, fail, out

app = typer.Typer(
    help="Add, list, search and remove what a bot knows.", no_args_is_help=True, pretty_exceptions_enable=False
)

UrlOption = Annotated[str | None, typer.Option("--url", help="Where visitors can read it.")]


@app.command()
def add(
    bot: Bot,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Markdown, HTML, PDF, DOCX, CSV or text.")],
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Add documents. Lines that begin with Q: and A: become FAQ pairs."""
    if url is not None and len(files) > 1:
        fail("--url goes with one file", WRONG_INPUT)
    with bot_api(bot, config, "knowledge") as api:
        for file in files:
            try:
                data = file.read_bytes()
            except OSError as error:
                fail(f"{file}: {error.strerror}", WRONG_INPUT)
            body = {"name": file.name, "base64": base64.b64encode(data).decode(), "url": url}
            added = api.ask("POST", "/documents", json=body)
            out.print(f"{file.name}: {added['passages']} passages, as {added['id']}", highlight=False, markup=False)


@app.command()
def faq(
    bot: Bot,
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER")],
    config: ConfigOption = None,
    url: UrlOption = None,
) -> None:
    """Add one question with the answer to give."""
    with bot_api(bot, config, "knowledge") as api:
        added = api.ask("POST", "/faq", json={"question": question, "answer": answer, "url": url})
    out.print(f"Added as {added['id']}", highlight=False)


@app.command("list")
def list_(bot: Bot, config: ConfigOption = None, as_json: AsJson = False) -> None:
    """List what was added; what the configuration names is not shown."""
    with bot_api(bot, config, "knowledge") as api:
        items = api.ask("GET")["items"]
    if as_json:
        out.print_json(data=items)
        return
    _table(("id", "kind", "passages", "title"), [[x["id"], x["kind"], str(x["passages"]), x["title"]] for x in items])


@app.command()
def search(
    bot: Bot,
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    config: ConfigOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what a question finds, best first, and whether the bot would answer from it."""
    with bot_api(bot, config, "knowledge") as api:
        items = api.ask("GET", "/search", params={"q": question})["items"]
    if as_json:
        out.print_json(data=items)
        return
    rows = [[f"{x['score']:.2f}", "yes" if x["known"] else "no", x["question"] or x["title"]] for x in items]
    _table(("score", "answers", "passage"), rows)


@app.command()
def remove(
    bot: Bot,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As `bunkhouse knowledge list` shows them.")],
    config: ConfigOption = None,
) -> None:
    """Remove documents or pairs that were added."""
    with bot_api(bot, config, "knowledge") as api:
        for each in ids:
            api.ask("DELETE", f"/{quote(each, safe='')}")
            out.print(f"Removed {each}", highlight=False, markup=False)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        out.print("Nothing.")
        return
    table = Table(*names, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)
