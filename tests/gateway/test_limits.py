"""Requests and tokens, a minute and a month: right to the token, also with many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.state import PAUSE_S
from services.config.schema import LimitsConfig
from services.contracts.chats import Payload, Ticket
from services.contracts.decisions import Reason
from services.store.charges import MINUTE_S, windows_of
from services.store.connection import Connection, QueueUnavailable, connect
from services.store.registry import Registry
from services.store.registry_edit import write_registry
from services.store.submission import Submission, SubmissionClient, Submitted
from services.tokenizer.tokenizer import Tokenizer
from tests.scheduler import kit

from .conftest import GLOBEX, Host, HostFactory, gateway_on
from .driver import Script, until
from .test_bad_input import GOOD, error_of
from .test_leaving import SLOW, SLOW_TEXT, Heard, begin, go_on

NOON_S = 1_800_000_000.0 - 1_800_000_000 % 60  # a minute's first second


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    async with connect(redis_url) as made:
        assert await write_registry(made, 0, Registry(version=1))
        yield made


def ticket(chat: str, tokens: int, now_s: float = NOON_S, tenant: str = "acme") -> Ticket:
    return kit.ticket(chat, tenant, "small", tokens=tokens, created_s=now_s, deadline_s=now_s + 60)


async def submit(door: SubmissionClient, limits: LimitsConfig, asking: Ticket) -> Submission:
    windows = windows_of(asking.tenant, limits, asking.tokens_max, asking.created_s)
    return await door.submit(asking, Payload(prompt="", salt="s"), registry_version=1, windows=windows)


def used_of(submission: Submission) -> list[int]:
    assert submission.charge is not None
    return list(submission.charge.used)


async def test_exactly_as_many_as_allowed(connection: Connection) -> None:
    doors = [SubmissionClient(connection) for _ in range(3)]
    limits = LimitsConfig(requests_per_minute=100, tokens_per_minute=1000)
    tried = await asyncio.gather(
        *(
            submit(doors[number % 3], limits, ticket(f"chat-{number}", 30, NOON_S + number * 0.1))
            for number in range(100)
        )
    )
    assert sum(one.outcome is Submitted.OK for one in tried) == 33  # 33 x 30 = 990
    refused = [one.charge.refused for one in tried if one.outcome is Submitted.LIMITED and one.charge]
    assert {window.what for window in refused if window} == {"tokens"}
    last = await submit(doors[0], limits, ticket("last", 10))
    assert (last.outcome, used_of(last)) == (Submitted.OK, [34, 1000])
    assert await connection.redis.zcard("bh:wait:acme") == 34, "a refused chat waits nowhere"
    fresh = await submit(doors[0], limits, ticket("fresh", 10, NOON_S + 60))
    assert used_of(fresh) == [1, 10]


async def test_a_submission_that_is_sent_again_is_charged_once(connection: Connection) -> None:
    door = SubmissionClient(connection)
    limits = LimitsConfig(requests_per_minute=1, tokens_per_minute=100)
    for _ in range(2):
        again = await submit(door, limits, ticket("chat", 60))
        assert (again.outcome, used_of(again)) == (Submitted.OK, [1, 60])


async def test_a_chat_that_finds_no_room_to_wait_is_not_charged(connection: Connection) -> None:
    door = SubmissionClient(connection, waiting_per_tenant_max=0)
    limits = LimitsConfig(tokens_per_minute=100)
    assert (await submit(door, limits, ticket("chat", 60))).outcome is Submitted.TENANT_FULL
    assert used_of(await submit(SubmissionClient(connection), limits, ticket("chat", 60))) == [60]


async def test_tenants_do_not_share(connection: Connection) -> None:
    door = SubmissionClient(connection)
    limits = LimitsConfig(requests_per_minute=1)
    assert (await submit(door, limits, ticket("chat", 1))).outcome is Submitted.OK
    assert (await submit(door, limits, ticket("theirs", 1, tenant="globex"))).outcome is Submitted.OK
    assert (await submit(door, LimitsConfig(), ticket("free", 1, tenant="initech"))).charge is None


async def test_a_month_ends_with_the_month(connection: Connection) -> None:
    submitted = await submit(SubmissionClient(connection), LimitsConfig(tokens_per_month=10), ticket("chat", 1))
    assert submitted.charge is not None
    [window] = submitted.charge.windows
    assert time.gmtime(window.resets_s)[2:5] == (1, 0, 0)
    assert 0 < window.resets_s - NOON_S <= 31 * 86400
    assert await connection.redis.ttl(window.key) > 30 * 86400


def limited(**limits: Any) -> Any:
    """A change of the registry."""

    def change(old: Registry) -> Registry:
        acme = old.tenants["acme"]
        config = acme.config.model_copy(update={"limits": LimitsConfig(**limits)})
        return old.model_copy(update={"tenants": {**old.tenants, "acme": acme.model_copy(update={"config": config})}})

    return change


async def test_requests_a_minute(host: Host) -> None:
    await host.change(limited(requests_per_minute=2))
    answers = [await host.ask(GOOD) for _ in range(2)]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0"]
    refused = await host.ask(GOOD)
    assert "2 requests a minute" in error_of(refused, 429, "rate_limit_exceeded", "limits.requests_per_minute")
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert 0 < float(refused.headers["x-ratelimit-reset-requests"].rstrip("s")) <= 60
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (await host.ask({**GOOD, "model": "returns"}, GLOBEX)).status_code == 200


async def test_a_chat_that_this_host_refused_uses_up_no_request(host: Host) -> None:
    await host.change(limited(requests_per_minute=2, tokens_per_minute=100_000))
    host.driver.script_for = lambda _: Script(refuse=(Reason.MODEL_DOWN, "The model is down.", None))
    assert all([(await host.ask(GOOD)).status_code == 503 for _ in range(4)])
    host.driver.script_for = lambda _: Script()
    assert (await host.ask(GOOD)).status_code == 200
    counted = await host.connection.redis.keys("bh:limit:acme:requests:*")
    assert sum([int(await host.connection.redis.get(key)) for key in counted]) == 1


async def test_a_request_that_cannot_be_served_stays_counted(host: Host) -> None:
    await host.change(limited(requests_per_minute=1))
    host.driver.script_for = lambda _: Script(refuse=(Reason.NEVER_FITS, "It never fits.", None))
    assert [(await host.ask(GOOD)).status_code for _ in range(2)] == [400, 429]


async def test_tokens_a_minute(host: Host) -> None:
    await host.change(limited(tokens_per_minute=500))
    answer = await host.ask({**GOOD, "max_tokens": 300})
    assert answer.status_code == 200
    used = answer.json()["usage"]["total_tokens"]
    again = await host.ask({**GOOD, "max_tokens": 300})
    assert again.status_code == 200  # what the first did not take was given back
    left = int(again.headers["x-ratelimit-remaining-tokens"])
    assert left == 500 - used - (host.driver.tickets[1].tokens_max)
    never = await host.ask({**GOOD, "max_tokens": 1000})
    error_of(never, 429, "rate_limit_exceeded", "limits.tokens_per_minute")
    assert never.headers["x-should-retry"] == "false"


async def test_a_cancelled_chat_gives_back_too(host: Host) -> None:
    await host.change(limited(tokens_per_minute=500))
    host.driver.script_for = lambda _: Script(pieces=["x"] * 100, pause_s=0.05)
    asking = asyncio.create_task(host.ask({**GOOD, "max_tokens": 400}))
    await until(lambda: host.driver.claims)
    asking.cancel()
    await until(lambda: host.driver.settled)
    await until(lambda: not host.state.lingering)
    host.driver.script_for = lambda _: Script()
    assert (await host.ask({**GOOD, "max_tokens": 400})).status_code == 200


async def test_what_a_chat_did_not_take_comes_back_when_its_gateway_is_gone(
    hosts: HostFactory, redis_url: str, tokenizer: Tokenizer
) -> None:
    async with hosts(resume_grace_s=60.0) as host:
        await host.change(limited(tokens_per_month=100_000))
        host.driver.script_for = lambda _: SLOW
        heard, alone = Heard(), Heard()
        async with gateway_on(redis_url, host.config, tokenizer) as (_, _, url, _):
            first = replace(host, url=url)
            await begin(first, alone, 2)
            await begin(first, heard, 2)
        await go_on(host.http, host.url, heard)
        assert heard.text == SLOW_TEXT
        await until(lambda: len(host.driver.settled) == 2)
        [window] = await host.connection.redis.keys("bh:limit:acme:month:*")
        took = sum(ticket.prompt_tokens + len(SLOW.pieces) for ticket in host.driver.tickets)
        assert int(await host.connection.redis.get(window)) == took


async def test_the_months_quota(host: Host) -> None:
    await host.change(limited(tokens_per_month=100))
    refused = await host.ask({**GOOD, "max_tokens": 200})
    error_of(refused, 429, "insufficient_quota", "limits.tokens_per_month")
    assert refused.headers["x-should-retry"] == "false"
    assert (await host.ask({**GOOD, "max_tokens": 20})).status_code == 200


@pytest.mark.parametrize(
    ("limits", "code"),
    [({"tokens_per_minute": 500}, "rate_limit_exceeded"), ({"tokens_per_month": 500}, "insufficient_quota")],
)
async def test_a_retry_is_not_refused_for_its_own_charge(hosts: HostFactory, limits: dict[str, int], code: str) -> None:
    async with hosts(resume_grace_s=60.0) as host:
        await host.change(limited(**limits))
        host.driver.script_for = lambda _: Script(pieces=["x"] * 30, pause_s=0.05)
        body, key = {**GOOD, "max_tokens": 400}, {"idempotency-key": "once"}
        left_s = MINUTE_S - time.time() % MINUTE_S
        await asyncio.sleep(left_s if left_s < 15 else 0)  # the charge is of one minute
        asking = asyncio.create_task(host.ask(body, **key))
        await until(lambda: host.driver.claims)
        asking.cancel()
        error_of(await host.ask(body), 429, code, f"limits.{next(iter(limits))}")
        again = await host.ask(body, **key)
        assert again.status_code == 200
        assert again.headers["x-bunkhouse-chat"] == host.driver.tickets[0].chat
        await host.change(limited(**dict.fromkeys(limits, 1)))
        assert (await host.ask(body, **key)).json() == again.json(), "a finished answer costs nothing to fetch"


async def test_a_submission_that_did_not_reach_redis_costs_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    await host.change(limited(requests_per_minute=1, tokens_per_minute=500))
    with monkeypatch.context() as silent:
        silent.setattr(host.state.submissions, "submit", unreached)
        error_of(await host.ask({**GOOD, "max_tokens": 400}), 503, "queue_unavailable")
    await asyncio.sleep(2 * PAUSE_S)
    assert (await host.ask({**GOOD, "max_tokens": 400})).status_code == 200


async def unreached(*_: Any, **__: Any) -> None:
    raise QueueUnavailable("Redis fell silent")
