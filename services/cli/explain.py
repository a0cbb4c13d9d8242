"""`bunkhouse explain CHAT`: why a chat waits, runs, ended or was refused."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from services.cli.errors import WRONG_INPUT, fail, out, reported_errors
from services.cli.running import DEFAULT_DATA_DIR
from services.contracts.explanation import Explanation
from services.host.state_file import read_state
from services.store.explanations import NoScheduler, explain
from services.store.runtime import Runtime, open_runtime


def run(chat: str, config_path: Path | None, as_json: bool) -> None:
    """Print the scheduler's answer. Exit code 1 when no scheduler answers, or the chat is unknown."""
    with reported_errors():
        if config_path is None:
            running = read_state(DEFAULT_DATA_DIR)
            if running is None:
                fail("no host runs here (no `bunkhouse up` on .bunkhouse); name its --config", WRONG_INPUT)
            config_path = Path(running.config)
        found = asyncio.run(_ask(open_runtime(config_path), chat))
    if as_json:
        out.print_json(data=asdict(found))
    elif found.state != "unknown":
        _show(found)
    if found.state == "unknown":
        fail(f"the chat {chat!r} is unknown: it ended long ago, or never existed")


async def _ask(runtime: Runtime, chat: str) -> Explanation:
    async with runtime.connect() as connection:
        try:
            return await explain(connection, chat)
        except NoScheduler as error:
            fail(str(error))
            raise  # `fail` has ended the command


def _show(found: Explanation) -> None:
    out.print(Text(f"{found.chat}: {found.state}", "bold"))
    if found.why:
        out.print(Text(found.why))
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    for name, value in {**asdict(found), **found.numbers}.items():
        if name not in ("chat", "state", "why", "numbers") and value is not None:
            table.add_row(name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
    out.print(table)
