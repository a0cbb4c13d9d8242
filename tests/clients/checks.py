"""What the scripts of all clients share. Standard library only: each script runs in an environment of its own.

A script names its checks with `@check(feature, what a user notices)` and ends with `run()`, which prints one JSON
object a check: feature, check, passed, detail, seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

URL = os.environ.get("BUNKHOUSE_URL", "")  # without /v1
KEY = os.environ.get("BUNKHOUSE_KEY", "")
V1 = f"{URL}/v1"
ENGINE = os.environ.get("BUNKHOUSE_ENGINE", "llamacpp")  # the probabilities of prompts come from SGLang only
BOT = "acme/support"
RAW = "acme/raw"  # its prompts bypass the system prompt, on /v1/completions
THINKER = "acme/thinker"  # its template ends each prompt inside thoughts
SHORT = 24  # tokens; enough to stream in several pieces
QUESTION = "My blender does not start. What can I do?"
DETAIL_CHARS_MAX = 400

Body = Callable[[], object]


class _Check(NamedTuple):
    feature: str
    what: str
    body: Body


_CHECKS: list[_Check] = []


def check(feature: str, what: str) -> Callable[[Body], Body]:
    """Add a function, plain or async, as a check: it passes when it raises nothing."""

    def add(body: Body) -> Body:
        _CHECKS.append(_Check(feature, what, body))
        return body

    return add


@contextmanager
def raises(kind: type[Exception], *words: str) -> Iterator[None]:
    """The block fails with this error, and its text has these words."""
    try:
        yield
    except kind as error:
        text = str(error)
        missing = [word for word in words if word not in text]
        if missing:
            raise AssertionError(f"{text} does not name {missing}") from error
    else:
        raise AssertionError(f"nothing was refused; {kind.__name__} was expected")


def run() -> None:
    """Run all checks, or those of the features that the command line names."""
    wanted = sys.argv[1:]
    for each in _CHECKS:
        if not wanted or each.feature in wanted:
            print(json.dumps(_result(each)), flush=True)


def _result(each: _Check) -> dict[str, object]:
    begin_s, detail = time.monotonic(), ""
    try:
        done = each.body()
        if inspect.iscoroutine(done):
            asyncio.run(done)
    except Exception as error:  # noqa: BLE001  # whatever a client raises, the next check runs
        where = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in where if "/scripts/" in frame.filename), 0)
        detail = f"line {line}: {type(error).__name__}: {error}"[:DETAIL_CHARS_MAX]
    seconds = round(time.monotonic() - begin_s, 2)
    return {"feature": each.feature, "check": each.what, "passed": not detail, "detail": detail, "seconds": seconds}
