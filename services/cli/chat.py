"""`bunkhouse chat TENANT/BOT`: talk to a bot in the terminal."""

from __future__ import annotations

import dataclasses
import secrets
import sys
from collections.abc import Iterator

import orjson
from rich.text import Text

from services.cli.client import ChatAnswer, ChatClient, ChatFailed
from services.cli.errors import WRONG_INPUT, err, fail, out, reported_errors
from services.cli.running import RunningHost, find

COMMANDS = "/new   start a new conversation\n/quit  end the chat, as Ctrl-D does\n/help  show this"


def run(
    bot: str,
    *,
    config: str | None,
    url: str | None,
    key: str | None,
    message: str | None,
    temperature: float,
    as_json: bool,
) -> None:
    """Hold a conversation until end of input or Ctrl-C; with `message`, or where no terminal asks, without prompts."""
    tenant, _, name = bot.partition("/")
    if not name:
        fail(f"{bot!r} is not a bot's name: write TENANT/BOT, for example acme/support", WRONG_INPUT)
    with reported_errors():
        host = RunningHost(url, key) if url and key else find(config, tenant).replaced(url, key)
    if host.url is None:
        fail("no host runs here (no `bunkhouse up` on this data_dir); name one with --url", WRONG_INPUT)
    if host.key is None:
        fail(f"tenant {tenant!r} has no ready key; name one with --key or BUNKHOUSE_API_KEY", WRONG_INPUT)
    session = f"cli-{secrets.token_hex(8)}"
    with ChatClient(host.url, host.key, bot, session=session, temperature=temperature) as client:
        talk(client, _turns(message), as_json, commands=message is None and sys.stdin.isatty())


def _turns(message: str | None) -> Iterator[str]:
    if message is not None:
        yield message
    elif sys.stdin.isatty():
        out.print("[dim]/help lists the commands; Ctrl-D ends the chat.[/]")
        while True:
            try:
                yield out.input("[bold cyan]> [/]")
            except (EOFError, KeyboardInterrupt):
                out.print()
                return
    else:
        yield from (line.strip() for line in sys.stdin)


def talk(client: ChatClient, turns: Iterator[str], as_json: bool, *, commands: bool = False) -> None:
    """Ask each turn and print its answer. `commands`: a line that begins with a slash is one, and no turn."""
    for text in turns:
        if not text.strip():
            continue
        if commands and text.startswith("/"):
            if text.strip() == "/quit":
                return
            _command(client, text.strip())
            continue
        try:
            for piece in client.ask(text):
                if not as_json:
                    out.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        except ChatFailed as error:
            if as_json or not sys.stdin.isatty():
                fail(str(error))
            err.print(Text(str(error), "red"))
            continue
        except KeyboardInterrupt:
            out.print("[dim] (stopped)[/]")
            continue
        if as_json:
            sys.stdout.write(orjson.dumps(_plain(client.answer)).decode() + "\n")
        else:
            out.print()
            out.print(Text(status_line(client.answer), "dim"))


def _command(client: ChatClient, text: str) -> None:
    if text == "/new":
        client.forget()
        out.print("[dim]A new conversation.[/]")
    elif text == "/help":
        out.print(Text(COMMANDS, "dim"))
    else:
        out.print(Text(f"{text.split(maxsplit=1)[0]} is not a command.\n{COMMANDS}", "red"))


def status_line(answer: ChatAnswer) -> str:
    """What a turn took, and whether it was cut.

    `KV 8 bits · 41+18 tokens (32 cached) · 52.1 tok/s · waited 3 ms · first token after 80 ms`
    """
    parts = [f"KV {answer.kv_bits} bits"] if answer.kv_bits is not None else []
    if answer.completion_tokens is not None:
        cached = f" ({answer.cached_tokens} cached)" if answer.cached_tokens else ""
        parts.append(f"{answer.prompt_tokens}+{answer.completion_tokens} tokens{cached}")
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:.1f} tok/s")
    if answer.queue_ms is not None:
        parts.append(f"waited {answer.queue_ms:.0f} ms")
    if answer.first_token_ms is not None:
        parts.append(f"first token after {answer.first_token_ms:.0f} ms")
    if answer.finish == "length":
        parts.append("cut at its maximum length")
    return " · ".join(parts)


def _plain(answer: ChatAnswer) -> dict[str, object]:
    speed = answer.tokens_per_s
    return {**dataclasses.asdict(answer), "tokens_per_s": round(speed, 2) if speed is not None else None}
