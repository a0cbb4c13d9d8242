"""What `bunkhouse up` prints: live rows on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from services.host.readiness import StartStep

DASHBOARD = "/dashboard"
DEMO_TEMPERATURE = 0.3  # a small model wanders at the API's default of 1


class Display(Protocol):
    """Where the supervisor reports what happens."""

    def steps(self, steps: Sequence[StartStep]) -> None:
        """Show how far start-up is."""

    def ready(
        self, url: str, keys: Mapping[str, str], chats: Mapping[str, str], took_s: float, secrets_file: str
    ) -> None:
        """The host serves. `keys`: tenant -> ready key; `chats`: tenant -> one bot; the file holds the admin key."""

    def event(self, words: str) -> None:
        """Something that the operator should know."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class TerminalDisplay:
    """Rows with spinners, then the words to go on with."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begin_s = time.monotonic()
        self._live: Live | None = None
        self._shown: dict[str, str] = {}
        self._spinner = Spinner("dots", style="cyan")

    def steps(self, steps: Sequence[StartStep]) -> None:
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=10, transient=True)
                self._live.start()
            self._live.update(self._rows(steps))
            return
        for step in steps:
            if self._shown.get(step.name) != step.words:
                self._shown[step.name] = step.words
                self._console.print(
                    f"{self._elapsed():6.1f} s  {step.name}: {step.words}", highlight=False, markup=False
                )

    def ready(
        self, url: str, keys: Mapping[str, str], chats: Mapping[str, str], took_s: float, secrets_file: str
    ) -> None:
        self.close()
        self._line(f"Bunkhouse is up at {url} after {took_s:.1f} s.", "bold green")
        self._line(f"  dashboard: {url}{DASHBOARD}")
        self._line(f"  its login: admin_key in {secrets_file}")
        for tenant, key in keys.items():
            self._line(f"  key of {tenant}: {key}")
        first = next(iter(keys), None)
        if first is None:
            self._line("No tenant has `ready_key: true`; make keys through the admin API.")
        elif first in chats:
            self._line("Try it:")
            self._line(curl(url, keys[first], chats[first]), "cyan")
        self._line("Ctrl-C stops everything.")

    def event(self, words: str) -> None:
        self._line(words, "yellow")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _rows(self, steps: Sequence[StartStep]) -> Group:
        table = Table.grid(padding=(0, 2))
        for step in steps:
            mark = Text("✓", "green") if step.done else self._spinner
            table.add_row(mark, step.name, Text(step.words, "dim" if step.done else ""))
        waiting = ", ".join(step.name for step in steps if not step.done) or "nothing more"
        return Group(table, Text(f"{self._elapsed():.0f} s; waiting for {waiting}", "dim"))

    def _elapsed(self) -> float:
        return time.monotonic() - self._begin_s

    def _line(self, text: str, style: str = "") -> None:
        # Never wrapped by us: a line that is pasted must come out of the terminal whole.
        self._console.print(Text(text, style), soft_wrap=True)


class JsonDisplay:
    """One JSON object a line on stdout."""

    def steps(self, steps: Sequence[StartStep]) -> None:
        self._write({"event": "starting", "waiting_for": {step.name: step.words for step in steps if not step.done}})

    def ready(
        self, url: str, keys: Mapping[str, str], chats: Mapping[str, str], took_s: float, secrets_file: str
    ) -> None:
        at = {"url": url, "dashboard": f"{url}{DASHBOARD}", "secrets_file": secrets_file}
        self._write({"event": "ready", **at, "keys": keys, "bots": chats, "took_s": round(took_s, 3)})

    def event(self, words: str) -> None:
        self._write({"event": "notice", "words": words})

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, line: dict[str, object]) -> None:
        print(orjson.dumps(line).decode(), flush=True)  # noqa: T201  (stdout is this display's product)


def curl(url: str, key: str, bot: str) -> str:
    """A line that streams one chat when pasted into a shell."""
    question = [{"role": "user", "content": "Hello! Who are you?"}]
    body = orjson.dumps({"model": bot, "stream": True, "temperature": DEMO_TEMPERATURE, "messages": question})
    return (
        f"curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body.decode()}'"
    )
