"""The running host's admin API, as commands about one bot use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from services.cli.errors import WRONG_INPUT, fail, reported_errors
from services.cli.running import config_of
from services.config.host_secrets import load_secrets
from services.host.state_file import read_state

ANSWER_S_MAX = 200.0  # a document may be read for that long
API = "/admin/v1"

Bot = Annotated[str, typer.Argument(metavar="TENANT/BOT", help="For example acme/support.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="The host's YAML file. Default: that of the host running here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True)
class BotApi:
    """The admin API of the running host, for one bot."""

    http: httpx.Client
    path: str

    def ask(self, method: str, path: str = "", **options: Any) -> Any:
        """The answer's JSON, None where it has none. Ends the command where the host refuses or does not answer."""
        answer = self.raw(method, f"{self.path}{path}", **options)
        return answer.json() if answer.content else None

    def raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A good answer to any path. Ends the command where there is none."""
        try:
            answer = self.http.request(method, path, **options)
        except httpx.HTTPError as error:
            fail(f"the host at {self.http.base_url} does not answer: {error}")
        if answer.is_success:
            return answer
        try:
            fail(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            fail(f"the host answered with status {answer.status_code}")


@contextmanager
def bot_api(bot: str, config_path: str | None, section: str) -> Iterator[BotApi]:
    """The section of a bot, at the host that runs here. Ends the command where none runs."""
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
        yield BotApi(http, f"{API}/bots/{quote(tenant, safe='')}/{quote(name, safe='')}/{section}")
