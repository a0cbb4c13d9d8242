"""The bits a chat asks for, from its bot's policy, its task and what the engine holds."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.directory import EngineNow
from gateway.kv_policies import choose, policy_of
from services.config.schema import KvPolicyConfig
from services.contracts.chats import Task

from .conftest import Host
from .test_bad_input import GOOD

MIXED = EngineNow((4, 8), live=True, context_tokens=2048)
AT_SIXTEEN = EngineNow((16,), live=False, context_tokens=2048)
AT_FOUR = EngineNow((4,), live=False, context_tokens=2048)


@pytest.mark.parametrize(
    ("kv", "task", "engine", "chosen"),
    [
        ({}, Task.MATHS, MIXED, (8, 8, False)),
        ({}, Task.SUPPORT, MIXED, (8, 4, True)),
        ({}, Task.CREATIVE, MIXED, (4, 4, False)),
        ({"demotable": False}, Task.SUPPORT, MIXED, (8, 4, False)),
        ({"demotable": True}, Task.MATHS, MIXED, (8, 8, False)),
        ({"floor": 8}, Task.CREATIVE, MIXED, (8, 8, False)),
        ({"policy": "fixed", "bits": 4}, Task.MATHS, MIXED, (4, 4, False)),
        ({"policy": "medical"}, Task.CREATIVE, MIXED, (8, 8, False)),
        ({"policy": "pressure"}, Task.MATHS, MIXED, (8, 4, True)),
        ({"policy": "pressure"}, Task.MATHS, EngineNow((4, 8), True, 2048, pressure=0.9), (4, 4, False)),
        ({"policy": "pressure", "floor": 8}, Task.MATHS, MIXED, (8, 8, False)),
        ({"policy": "pressure", "ceiling": 4}, Task.MATHS, MIXED, (4, 4, False)),
        ({"policy": "manufacturing"}, Task.MATHS, MIXED, (4, 4, False)),
        ({"policy": "manufacturing", "bits": 8}, Task.MATHS, MIXED, (8, 8, False)),
        ({"floor": 16}, Task.SUPPORT, AT_SIXTEEN, (16, 16, False)),
        ({"policy": "pressure", "floor": 16}, Task.SUPPORT, AT_SIXTEEN, (16, 16, False)),
        # one precision for all: maths is served at 4 too, a promise of 8 is not
        ({}, Task.MATHS, AT_FOUR, (4, 4, False)),
        ({"floor": 8}, Task.SUPPORT, AT_FOUR, (8, 8, False)),
        ({"policy": "medical"}, Task.SUPPORT, AT_FOUR, (8, 8, False)),
    ],
)
def test_what_is_asked_for(kv: dict[str, Any], task: Task, engine: EngineNow, chosen: tuple[int, int, bool]) -> None:
    assert choose(KvPolicyConfig.model_validate(kv), task, engine) == chosen


def test_options_a_policy_does_not_take() -> None:
    with pytest.raises(ValueError, match="above ceiling"):
        policy_of(KvPolicyConfig(floor=16, ceiling=8))


async def test_the_task_is_read_from_the_message(host: Host) -> None:
    for text, task in (("What is 17 * 23 + 4?", Task.MATHS), ("Write a poem about the sea", Task.CREATIVE)):
        await host.ask({**GOOD, "messages": [{"role": "user", "content": text}]})
        assert host.driver.tickets[-1].task is task


async def test_the_engines_own_bits_count(host: Host) -> None:
    await host.driver.ready(bits=4)
    await host.state.engines.look()
    await host.ask(GOOD)
    ticket = host.driver.tickets[-1]
    assert (ticket.kv_bits, ticket.kv_bits_floor, ticket.demotable) == (4, 4, False)
