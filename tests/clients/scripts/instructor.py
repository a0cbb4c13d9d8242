"""instructor: typed results in each of its modes for OpenAI's API."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from pydantic import BaseModel, Field

from tests.clients.checks import BOT, KEY, QUESTION, V1, check, run
from tests.clients.scripts.ticket import Quote, Ticket

client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)
USER: Any = {"role": "user", "content": QUESTION}


class Tickets(BaseModel):
    """One or two tickets."""

    tickets: list[Ticket] = Field(min_length=1, max_length=2)


def ask(mode: instructor.Mode, **options: Any) -> Any:
    patched = instructor.from_openai(client, mode=mode)
    settings: dict[str, Any] = {"model": BOT, "messages": [USER], "max_tokens": 256, "temperature": 0, "max_retries": 0}
    return patched.chat.completions.create(**(settings | {"response_model": Ticket} | options))


@check("typed", "mode TOOLS, the default, gives a typed result")
def _() -> None:
    assert isinstance(ask(instructor.Mode.TOOLS), Ticket)


@check("typed", "mode TOOLS_STRICT gives a typed result")
def _() -> None:
    assert isinstance(ask(instructor.Mode.TOOLS_STRICT), Ticket)


@check("typed", "mode JSON_SCHEMA gives a typed result")
def _() -> None:
    assert isinstance(ask(instructor.Mode.JSON_SCHEMA), Ticket)


@check("typed", "the bounds of numbers are kept in each mode")
def _() -> None:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        assert isinstance(ask(mode, response_model=Quote), Quote)


@check("stream", "a typed result is streamed in parts")
def _() -> None:
    from instructor import Partial

    parts = list(ask(instructor.Mode.TOOLS, response_model=Partial[Ticket], stream=True))
    assert len(parts) > 1
    assert parts[-1].topic in ("repair", "return")


@check("typed", "a list of results keeps its bounds")
def _() -> None:
    found = ask(instructor.Mode.TOOLS, response_model=Tickets)
    assert 1 <= len(found.tickets) <= 2


@check("usage", "create_with_completion gives the usage beside the result")
def _() -> None:
    patched: Any = instructor.from_openai(client)
    ticket, completion = patched.chat.completions.create_with_completion(
        model=BOT, messages=[USER], response_model=Ticket, max_tokens=128
    )
    assert isinstance(ticket, Ticket)
    assert completion.usage.completion_tokens > 0


run()
