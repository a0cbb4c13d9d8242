"""Schemathesis over the chat API's OpenAPI document, against a whole host: no 5xx, and answers are what it says.

BUNKHOUSE_FUZZ_CASES sets how many; `make fuzz` runs 10,000. Requests are half what the document allows and half not;
many are then pointed at a bot and at chats that exist, so that they get past the first check.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.openapi.document import PATH, document
from gateway.request import MAX_TOKENS_MAX
from gateway.routes import CHAT_PREFIX, MODEL_PREFIX, ROUTES
from tests.fuzzing import UNSHRUNK
from tests.security.conftest import BRIEF, Hosted

CASES = int(os.environ.get("BUNKHOUSE_FUZZ_CASES", "250"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SLOW_S = 30.0  # longer than any answer of a few tokens takes; less than the client's patience
KNOWN_MAX = 20
EVENT_IDS = ["0-0", "1-1", "999999999-999999999999999", "\u0661-\u0661", "1-1\n", "-", "+"]
VALID_TOKENS = range(3, MAX_TOKENS_MAX + 1)  # more than the small context holds, mostly: refused
TIMES = {
    "/v1/chat/completions": 12,
    "/v1/responses": 6,
    "/v1/messages": 6,
    "/v1/completions": 4,
    "/v1/chats/{id}/stream": 4,
    "/v1/chats/{id}": 3,
    "/v1/models/{id}": 2,
}  # of an operation, to once of each other

schema = schemathesis.openapi.from_dict(document())
operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
cases = {
    mode: st.sampled_from(
        [
            strategy
            for operation in operations
            for strategy in [operation.as_strategy(generation_mode=mode)] * TIMES.get(operation.path, 1)
        ]
    ).flatmap(lambda strategy: strategy)
    for mode in GenerationMode
}
often = st.sampled_from([True] * 7 + [False])


@dataclass
class Fuzzing:
    """What the cases share, and what came of them."""

    hosted: Hosted
    processes: set[tuple[int, float]]
    chats: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


def processes_of(hosted: Hosted) -> set[tuple[int, float]]:
    """The host's processes, told apart from others that came to have the same id."""
    root = psutil.Process(hosted.host.process.pid)
    return {(one.pid, one.create_time()) for one in (root, *root.children()) if one.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(scope="module")
def fuzzing(hosted: Hosted) -> Iterator[Fuzzing]:
    shared = Fuzzing(hosted, processes_of(hosted))
    began_s = time.monotonic()
    yield shared
    print(f"\n{shared.seen.total()} cases in {time.monotonic() - began_s:.0f} s, the slowest {shared.slowest_s:.1f} s")
    for what, count in sorted(shared.seen.items()):
        print(f"{count:6}  {what}")


def _deeper(case: schemathesis.Case[Any], draw: Any, chats: list[str]) -> bool:
    """Point a case at what exists. Says whether it was changed."""
    changed = False
    if "id" in (case.path_parameters or {}) and draw(often):
        known = ["support", BRIEF, "globex/returns"] if "models" in case.path else chats or ["none"]
        case.path_parameters["id"] = known[draw(st.integers(0, KNOWN_MAX)) % len(known)]
        changed = True
    if case.path.endswith("/stream") and not draw(often):
        case.query["last_event_id"] = draw(st.sampled_from(EVENT_IDS))
        changed = True
    if isinstance(case.body, dict):
        if "model" in case.body and draw(often):
            case.body["model"] = draw(st.sampled_from(["brief", BRIEF]))
            changed = True
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if case.body.get(name) in VALID_TOKENS and draw(often):
                case.body[name] = 2
    return changed


@pytest.mark.timeout(7200)
@settings(UNSHRUNK, max_examples=CASES)
@given(st.data())
def test_no_request_is_answered_with_5xx(fuzzing: Fuzzing, data: st.DataObject) -> None:
    draw = data.draw
    case = draw(cases[draw(st.sampled_from(list(GenerationMode)))])
    changed = _deeper(case, draw, fuzzing.chats)
    key = fuzzing.hosted.host.headers("acme") if draw(often) else {}
    case.headers.update(key)  # schemathesis makes up keys, or leaves them out
    began_s = time.monotonic()
    answer = case.call(base_url=fuzzing.hosted.host.url, headers=key, timeout=SLOW_S)
    fuzzing.slowest_s = max(fuzzing.slowest_s, time.monotonic() - began_s)
    fuzzing.seen[f"{answer.status_code} {case.method} {case.path}"] += 1
    case.validate_response(answer, checks=CHECKS if changed else [*CHECKS, negative_data_rejection])
    chat = answer.headers.get("x-bunkhouse-chat")
    if answer.status_code == 200 and chat:
        fuzzing.chats = [*fuzzing.chats[1 - KNOWN_MAX :], chat]


def test_the_host_is_as_before(fuzzing: Fuzzing) -> None:
    """Runs after the cases: each process is the one that was there, and a chat is answered."""
    assert processes_of(fuzzing.hosted) == fuzzing.processes
    assert fuzzing.hosted.http.get("/ready").json()["missing"] == []
    answer = fuzzing.hosted.ask("acme", "Hello")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]


def test_the_document_is_served(hosted: Hosted) -> None:
    answer = hosted.http.get(PATH)
    assert answer.status_code == 200
    assert answer.json() == document()


def test_the_document_is_complete() -> None:
    paths = document()["paths"]
    prefixed = {f"{MODEL_PREFIX}{{id}}", *(f"{CHAT_PREFIX}{{id}}{rest}" for rest in ("", "/stream", "/cancel"))}
    assert set(paths) == set(ROUTES) | prefixed
    for path, route in ROUTES.items():
        assert list(paths[path]) == [route.method.lower()]
    for path, methods in paths.items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            assert ("401" in operation["responses"]) == (path not in {"/health", "/ready", PATH})
