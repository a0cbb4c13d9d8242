"""`bunkhouse knowledge add|faq|list|search|remove TENANT/BOT`: what a bot knows, by the running host's admin API."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.table import Table
from rich.text import Text

from services.cli.errors import WRONG_INPUT, fail, out, reported_errors
from services.cli.running import config_of
from services.config.host_secrets import load_secrets
from services.host.state_file import read_state

ANSWER_S_MAX = 200.0  # a document may be read for that long

app = typer.Typer(
    help="Add, list, search and remove what a bot knows.", no_args_is_help=True, pretty_exceptions_enable=False
)

Bot = Annotated[str, typer.Argument(metavar="TENANT/BOT", help="For example acme/support.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="The host's YAML file. Default: that of the host running here.")
]
UrlOption = Annotated[str | None, typer.Option("--url", help="Where visitors can read it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class _KnowledgeApi:
    """The admin API of the running host, for one bot."""

    http: httpx.Client
    path: str

    def ask(self, method: str, path: str = "", **options: Any) -> Any:
        """The answer's JSON, None where it has none. Ends the command where the host refuses or does not answer."""
        try:
            answer = self.http.request(method, f"{self.path}{path}", **options)
        except httpx.HTTPError as error:
            fail(f"the host at {self.http.base_url} does not answer: {error}")
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            fail(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            fail(f"the host answered with status {answer.status_code}")


@contextmanager
def _api(bot: str, config_path: str | None) -> Iterator[_KnowledgeApi]:
    tenant, _, name = bot.partition("/")
    if not name:
        fail(f"{bot!r} is not a bot's name: write TENANT/BOT, for example acme/support", WRONG_INPUT)
    with reported_errors():
        config = config_of(config_path)
        running = read_state(config.data_dir) if config is not None else None
        if config is None or running is None or running.url is None:
            fail("no host runs here (no `bunkhouse up` on this data_dir); name its --config", WRONG_INPUT)
        key = load_secrets(config.data_dir).admin_key
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=ANSWER_S_MAX, trust_env=False) as http:
        yield _KnowledgeApi(http, f"/admin/v1/bots/{quote(tenant, safe='')}/{quote(name, safe='')}/knowledge")


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
    with _api(bot, config) as api:
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
    with _api(bot, config) as api:
        added = api.ask("POST", "/faq", json={"question": question, "answer": answer, "url": url})
    out.print(f"Added as {added['id']}", highlight=False)


@app.command("list")
def list_(bot: Bot, config: ConfigOption = None, as_json: AsJson = False) -> None:
    """List what was added; what the configuration names is not shown."""
    with _api(bot, config) as api:
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
    with _api(bot, config) as api:
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
    with _api(bot, config) as api:
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
