"""Questions of a bot's test set: asked as a visitor's, but changing, charging and calling nothing that counts."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.outcomes import Code, Refused
from gateway.trials import tried
from services.config.schema import LimitsConfig
from services.store.registry import Registry
from services.store.usage_report import day_now, rows

from .conftest import Host
from .test_actions import LOOK, QUESTION, Shop, action, decide, give, shop

__all__ = ["shop"]


def ask(host: Host, text: str, bits: int = 8) -> Any:
    return tried(host.state, "acme/support", [{"role": "user", "content": text}], bits, "req-test")


async def test_a_trial_is_counted_apart_and_not_against_the_tenants_limits(host: Host) -> None:
    def limited(registry: Registry) -> Registry:
        record = registry.tenants["acme"]
        config = record.config.model_copy(update={"limits": LimitsConfig(requests_per_minute=1)})
        return registry.model_copy(
            update={"tenants": {**registry.tenants, "acme": record.model_copy(update={"config": config})}}
        )

    await host.change(limited)
    await host.state.directory.reload()
    await host.state.engines.look()
    answers = [await ask(host, "Hello") for _ in range(3)]
    assert {(answer.text, answer.kv_bits, answer.finish) for answer in answers} == {("Hello, wörld!", 8, "stop")}
    assert {(ticket.priority, ticket.demotable, ticket.overflow) for ticket in host.driver.tickets} == {
        (-10, False, False)
    }
    answer = await host.ask({"model": "support", "messages": [{"role": "user", "content": "Hello"}]})
    assert answer.status_code == 200, answer.text
    today = day_now(host.state.clock())
    counted = {row.bot: row.chats for row in await rows(host.connection, today, today)}
    assert counted == {"acme/support#test": 3, "acme/support": 1}


async def test_bits_that_the_model_does_not_hold_are_refused(host: Host) -> None:
    await host.state.engines.look()
    with pytest.raises(Refused) as caught:
        await ask(host, "Hello", 4)
    assert caught.value.code is Code.KV_BITS
    assert "holds KV at 8 bits now, not 4" in caught.value.message
    assert not host.driver.tickets


async def test_lookups_are_made_and_calls_that_change_something_are_not(host: Host, shop: str) -> None:
    await host.state.engines.look()
    await give(host, look_up=action(shop))
    decide(host, LOOK)
    answer = await ask(host, QUESTION)
    assert [(call.action, call.arguments, call.status) for call in answer.calls] == [
        ("look_up", {"order": "4711"}, "ok")
    ]
    assert len(Shop.seen) == 1
    for confirm, status in ((True, "waits"), (False, "dry")):
        await give(host, cancel=action(shop, method="POST", confirm=confirm, says=""))
        decide(host, {"do": "cancel"})
        answer = await ask(host, "Cancel order 4711!")
        assert [(call.action, call.arguments, call.status) for call in answer.calls] == [
            ("cancel", {"order": "4711"}, status)
        ]
    assert len(Shop.seen) == 1
