"""`n` answers to one request: let in together or not at all, read as one, charged for one prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from services.config.schema import LimitsConfig
from services.contracts.chats import Ticket
from services.contracts.decisions import Reason
from services.contracts.replies import Finish, ReplyError
from services.store import redis_keys as keys
from services.store.registry import Registry
from services.store.usage_report import day_now, rows

from .conftest import ACME, Host
from .driver import Script, until
from .test_bad_input import error_of

HELLO: Any = [{"role": "user", "content": "Hello there"}]
BODY = {"model": "acme/support", "messages": HELLO}


def _scripts(**changes: Any) -> Callable[[Ticket], Script]:
    """The answer to choice i is i + 1 tokens long; `changes` are those of the second."""
    return lambda ticket: Script(
        pieces=[f"{ticket.choice}{piece} " for piece in range(ticket.choice + 1)],
        **(changes if ticket.choice == 1 else {}),
    )


async def test_a_whole_answer_has_a_choice_for_each(host: Host) -> None:
    host.driver.script_for = _scripts(finish=Finish.LENGTH)
    answer = await host.client().chat.completions.create(model="support", messages=HELLO, n=3)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "00 ", "stop"),
        (1, "10 11 ", "length"),
        (2, "20 21 22 ", "stop"),
    ]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == host.driver.tickets[0].prompt_tokens
    assert answer.usage.completion_tokens == 1 + 2 + 3
    assert {ticket.session for ticket in host.driver.tickets} == {answer.id}
    [row] = await rows(host.connection, *[day_now(host.driver.tickets[0].created_s)] * 2)
    assert (row.chats, row.prompt_tokens, row.completion_tokens) == (3, answer.usage.prompt_tokens, 6)


async def test_a_stream_names_the_choice_of_each_event(host: Host) -> None:
    host.driver.script_for = _scripts(pause_s=0.02)
    stream = await host.client().chat.completions.create(
        model="support", messages=HELLO, n=4, stream=True, stream_options={"include_usage": True}
    )
    texts, roles, finishes, used = ["", "", "", ""], [0] * 4, [""] * 4, None
    async for chunk in stream:
        used = chunk.usage or used
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role is not None
            finishes[choice.index] += choice.finish_reason or ""
    assert texts == ["00 ", "10 11 ", "20 21 22 ", "30 31 32 33 "]
    assert (roles, finishes) == ([1] * 4, ["stop"] * 4)
    assert used is not None
    assert (used.prompt_tokens, used.completion_tokens) == (host.driver.tickets[0].prompt_tokens, 10)


async def test_a_key_joins_all_of_them(host: Host) -> None:
    host.driver.script_for = _scripts()
    first = await host.ask({**BODY, "n": 2}, **{"idempotency-key": "k"})
    again = await host.ask({**BODY, "n": 2}, **{"idempotency-key": "k"})
    assert again.json()["choices"] == first.json()["choices"]
    assert again.json()["usage"] == first.json()["usage"]
    streamed = await host.ask({**BODY, "n": 2, "stream": True}, **{"idempotency-key": "k"})
    events = [orjson.loads(line[6:]) for line in streamed.text.split("\n") if line.startswith("data: {")]
    assert {event["choices"][0]["index"] for event in events} == {0, 1}
    assert "id: " not in streamed.text
    assert len(host.driver.tickets) == 2
    error_of(await host.ask({**BODY, "n": 3}, **{"idempotency-key": "k"}), 422, "idempotency_key_reused")


async def test_they_are_let_in_together_or_not_at_all(host: Host) -> None:
    host.driver.script_for = lambda _: Script(ignore=True)
    limit = LimitsConfig(tokens_per_minute=1000)

    def limited(registry: Registry) -> Registry:
        tenant = registry.tenants["acme"]
        config = tenant.config.model_copy(update={"limits": limit})
        return registry.model_copy(
            update={"tenants": {**registry.tenants, "acme": tenant.model_copy(update={"config": config})}}
        )

    await host.change(limited)
    refused = await host.ask({**BODY, "n": 8, "max_tokens": 200})
    error_of(refused, 429, "rate_limit_exceeded", "limits.tokens_per_minute")
    assert host.driver.tickets == []
    assert await host.connection.redis.hlen(keys.WAITING) == 0
    host.driver.script_for = _scripts()
    taken = await host.ask({**BODY, "n": 4, "max_tokens": 100})
    assert taken.status_code == 200
    used = 1000 - int(taken.headers["x-ratelimit-remaining-tokens"])
    assert used == 4 * 100 + host.driver.tickets[0].prompt_tokens
    await until(lambda: len(host.driver.settled) == 4)
    after = await host.ask({**BODY, "max_tokens": 1})
    prompt = host.driver.tickets[-1].prompt_tokens
    left = 1000 - taken.json()["usage"]["total_tokens"] - prompt - 1
    assert int(after.headers["x-ratelimit-remaining-tokens"]) == left, "what was not taken is given back"


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_ends_the_others(host: Host, stream: bool) -> None:
    failing = Script(pieces=["x"], pause_s=0.3, error=ReplyError("engine_failed", "The model failed."))
    host.driver.script_for = lambda ticket: failing if ticket.choice else Script(pieces=["a "] * 400, pause_s=0.05)
    answer = await host.ask({**BODY, "n": 2, "stream": stream})
    if stream:
        assert "engine_failed" in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        error_of(answer, 502, "engine_failed")
    await until(lambda: host.driver.cancelled == {host.driver.tickets[0].chat})
    await until(lambda: len(host.driver.settled) == 2)


async def test_one_that_is_refused_in_the_queue_refuses_them_all(host: Host) -> None:
    refused = Script(refuse=(Reason.DEADLINE, "too late", 1.0))
    host.driver.script_for = lambda ticket: refused if ticket.choice else Script(pieces=["a "] * 400, pause_s=0.05)
    answer = await host.ask({**BODY, "n": 2})
    error_of(answer, 503, "deadline")
    await until(lambda: len(host.driver.settled) == 1)


async def test_a_client_that_leaves_ends_them_all(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=["a "] * 400, pause_s=0.05)
    headers = {"authorization": f"Bearer {ACME}"}
    body = {**BODY, "n": 3, "stream": True}
    async with host.http.stream("POST", f"{host.url}/v1/chat/completions", json=body, headers=headers) as answer:
        async for _ in answer.aiter_lines():
            if len(host.driver.claims) == 3:
                break
    await until(lambda: len(host.driver.settled) == 3)
    assert host.driver.cancelled == {ticket.chat for ticket in host.driver.tickets}
    assert not host.state.readers
