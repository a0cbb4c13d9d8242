"""Replies of a model that thinks and calls tools."""

from __future__ import annotations

import orjson

from services.contracts.replies import ContentKind, Finish
from services.worker.parsers.base import Parsed
from tests.gateway.driver import Script

CALL_ID = "call_0123456789abcdef01234567"


def thought(text: str) -> Parsed:
    return Parsed(ContentKind.REASONING, text, 1)


def call(index: int, **members: str) -> Parsed:
    return Parsed(ContentKind.TOOL_CALL, orjson.dumps({"index": index, **members}).decode() + "\n", 1)


THINKS = (thought("Let me"), thought(" think."), "It is", " rain.")
CALLS = (
    thought("Ask."),
    "One moment.",
    call(0, id=CALL_ID, name="weather"),
    call(0, arguments='{"city":'),
    call(0, arguments='"Oslo"}'),
    call(1, id=CALL_ID[:-1] + "8", name="weather", arguments="{}"),
)


def thinking() -> Script:
    return Script(THINKS)


def calling() -> Script:
    return Script(CALLS, finish=Finish.TOOL_CALLS)
