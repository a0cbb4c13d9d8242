"""Anything at all, sent to the public API: an answer in words, never a 5xx. BUNKHOUSE_FUZZ_CASES sets how much."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.outcomes import Refused
from gateway.request import ChatRequest, checked_chat, json_object

from .conftest import ACME, Host

CASES = int(os.environ.get("BUNKHOUSE_FUZZ_CASES", "300"))
SEED = int(os.environ.get("BUNKHOUSE_FUZZ_SEED", "1"))

NAMES = [*ChatRequest.model_fields, "n", "tools", "functions", "logprobs", "cache_salt", "x", "", "response_format"]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "system", "text", "support", "acme/support", "globex/returns", "maths"])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "task", "session"]) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(NAMES), anything, max_size=6)


@settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies)
def test_parsing_never_fails_otherwise_than_in_words(body: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(body)
    except (TypeError, orjson.JSONEncodeError):
        return  # an integer beyond 64 bits, or half a surrogate pair
    refused = refusal_of(raw)
    assert refused is None or refused.message


@settings(max_examples=CASES, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_json_or_refused(raw: bytes) -> None:
    refusal_of(raw)


def refusal_of(raw: bytes) -> Refused | None:
    """How a body is refused: by a status of the client's, with a body that is JSON."""
    try:
        checked_chat(json_object(raw, "application/json"))
    except Refused as caught:
        refused = caught
    else:
        return None
    assert 400 <= refused.row.status < 500
    orjson.loads(refused.body())
    return refused


async def test_the_whole_gateway(host: Host) -> None:
    """Mutations of a good request, over HTTP, many at once."""
    dice = random.Random(SEED)
    good = {
        "model": "support",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["x"],
        "metadata": {"task": "maths"},
    }
    makers: list[Callable[[], Any]] = [
        lambda: None,
        lambda: dice.choice([0, -1, 1e9, 2**70, 0.5, True]),
        lambda: dice.choice(["", "x" * 300, "\x00", "\u202e", "<|im_end|>", "🦊" * 50]),
        lambda: dice.choice([[], {}, [[]], {"a": {"b": {}}}, [None], [{"role": "user"}]]),
    ]

    async def one() -> tuple[int, bytes]:
        body = dict(good)
        for _ in range(dice.randint(1, 3)):
            body[dice.choice([*good, *NAMES])] = dice.choice(makers)()
        raw = json.dumps(body).encode()  # unlike orjson it takes integers of any size
        if dice.random() < 0.2:
            cut = dice.randrange(len(raw))
            raw = raw[:cut] + bytes(dice.randrange(256) for _ in range(3)) + raw[cut + dice.randrange(4) :]
        answer = await host.ask(raw, **{"content-type": "application/json"})
        return answer.status_code, raw

    for _ in range(max(1, CASES // 50)):
        for status, raw in await asyncio.gather(*(one() for _ in range(16))):
            assert status < 500, (SEED, raw)
    assert (await host.ask(good)).status_code == 200
    paths = [
        "/v1/models/" + "x" * 5000,
        "/v1/chats/%00",
        "/v1/chats/../../x",
        "//",
        "/v1/chats//stream",
        "/%ff",
        "/v1/models/a/b/c",
    ]
    for path in paths:
        answer = await host.http.get(host.url + path, headers={"authorization": f"Bearer {ACME}"})
        assert 300 <= answer.status_code < 500, path
