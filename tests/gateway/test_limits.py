"""Requests and tokens a minute: right to the token, also with many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.config import LimitsConfig
from services.queues.connection import Connection, connect
from services.queues.limits import Limits
from services.registry import Registry

from .conftest import GLOBEX, Host
from .driver import Script, until
from .test_bad_input import GOOD, error_of

NOON_S = 1_800_000_000.0 - 1_800_000_000 % 60  # a minute's first second


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    async with connect(redis_url) as made:
        yield made


async def test_exactly_as_many_as_allowed(connection: Connection) -> None:
    gateways = [Limits(connection) for _ in range(3)]
    limits = LimitsConfig(requests_per_minute=100, tokens_per_minute=1000)
    charges = await asyncio.gather(
        *(gateways[number % 3].charge("acme", limits, 30, NOON_S + number * 0.1) for number in range(100))
    )
    let_in = [charge for charge in charges if charge is not None and charge.refused is None]
    assert len(let_in) == 33  # 33 x 30 = 990
    assert {charge.refused.what for charge in charges if charge and charge.refused} == {"tokens"}
    last = await gateways[0].charge("acme", limits, 10, NOON_S)
    assert last is not None
    assert (last.refused, list(last.used)) == (None, [34, 1000])


async def test_what_was_not_taken_comes_back(connection: Connection) -> None:
    limits = Limits(connection)
    config = LimitsConfig(tokens_per_minute=100)
    charge = await limits.charge("acme", config, 90, NOON_S)
    assert charge is not None
    await limits.give_back(charge, tokens=60)
    again = await limits.charge("acme", config, 70, NOON_S + 59)
    assert again is not None
    assert (again.refused, list(again.used)) == (None, [100])
    over = await limits.charge("acme", config, 1, NOON_S + 59)
    assert over is not None
    assert over.refused is not None
    await limits.give_back(over, tokens=1)  # it took nothing: nothing comes back
    assert (await limits.charge("acme", config, 1, NOON_S + 59)).refused is not None  # type: ignore[union-attr]
    fresh = await limits.charge("acme", config, 1, NOON_S + 60)
    assert fresh is not None
    assert list(fresh.used) == [1]


async def test_tenants_do_not_share(connection: Connection) -> None:
    limits = Limits(connection)
    config = LimitsConfig(requests_per_minute=1)
    assert (await limits.charge("acme", config, 1, NOON_S)).refused is None  # type: ignore[union-attr]
    assert (await limits.charge("globex", config, 1, NOON_S)).refused is None  # type: ignore[union-attr]
    assert await limits.charge("initech", LimitsConfig(), 1, NOON_S) is None


async def test_a_month_ends_with_the_month(connection: Connection) -> None:
    limits = Limits(connection)
    charge = await limits.charge("acme", LimitsConfig(tokens_per_month=10), 1, NOON_S)
    assert charge is not None
    assert time.gmtime(charge.windows[0].resets_s)[2:5] == (1, 0, 0)
    assert 0 < charge.windows[0].resets_s - NOON_S <= 31 * 86400
    assert await connection.redis.ttl(charge.windows[0].key) > 30 * 86400


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


async def test_the_months_quota(host: Host) -> None:
    await host.change(limited(tokens_per_month=100))
    refused = await host.ask({**GOOD, "max_tokens": 200})
    error_of(refused, 429, "insufficient_quota", "limits.tokens_per_month")
    assert refused.headers["x-should-retry"] == "false"
    assert (await host.ask({**GOOD, "max_tokens": 20})).status_code == 200
