"""Proposals follow what was measured and how short memory is, and leave a trade's floor alone."""

from __future__ import annotations

from typing import Any

import pytest

from services.config.schema import BotConfig, KvPolicyConfig, TenantConfig
from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.jobs.attempt import Context
from services.jobs.autotune import run
from services.planner.autotune import proposals
from services.store.connection import Connection
from services.store.jobs import Jobs
from services.store.quality import Measured, keep
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import read_registry, write_registry
from services.store.runtime import Runtime
from services.store.work import WorkConsumer


def registry(**kv: Any) -> Registry:
    bots = {"support": BotConfig(model="m", kv=KvPolicyConfig(**kv))}
    return Registry(tenants={"acme": TenantRecord(config=TenantConfig(bots=bots))})


def rows(four: float, eight: float) -> list[Measured]:
    return [Measured(bits, 20.0, change, 0.0, 1.0, "job") for bits, change in ((4, four), (8, eight), (16, 0.0))]


@pytest.mark.parametrize(
    ("kv", "four", "short", "expected"),
    [
        ({}, 0.07, 0.0, {"policy": "auto", "floor": 8, "ceiling": 8}),
        ({}, 0.01, 0.9, {"policy": "pressure", "floor": 4, "ceiling": 8}),
        ({"policy": "fixed", "bits": 16}, 0.01, 0.0, {"policy": "fixed", "bits": 4}),
        ({"policy": "fixed", "bits": 4}, 0.20, 0.0, {"policy": "fixed", "bits": 8}),
    ],
)
def test_bits_go_where_they_are_allowed(
    kv: dict[str, Any], four: float, short: float, expected: dict[str, Any]
) -> None:
    [found] = proposals(registry(**kv), {"m": rows(four, 0.001)}, {"m": short}, 0.05)
    assert {name: found.after[name] for name in expected} == expected
    assert "%" in found.why


def test_what_is_right_already_not_measured_or_a_trades_is_left_alone() -> None:
    assert proposals(registry(policy="auto", floor=4, ceiling=8), {"m": rows(0.01, 0.001)}, {}, 0.05) == []
    assert proposals(registry(), {}, {}, 0.05) == []
    assert proposals(registry(policy="medical", floor=8), {"m": rows(0.0, 0.0)}, {}, 0.05) == []


async def test_bits_that_the_model_does_not_hold_are_not_proposed(connection: Connection, runtime: Runtime) -> None:
    """The laptop example's second model holds 4 bits and nothing else: a bot at 8 would have every chat refused."""
    assert await write_registry(connection, 0, registry(policy="fixed", bits=4))
    await keep(connection, "m", rows(0.20, 0.001))

    async def tuned(bits: KvBits) -> Any:
        """The result of a job that carries its proposals out, on an engine with these bits."""
        facts = EngineFacts("m", "llamacpp", 100, 10, 1000, {int(bits): 1}, 512, 3, bits)
        await WorkConsumer(connection, "m", "m@0").publish_engine(facts, EngineReport("m", 0.0, EngineState.READY))
        job = await Jobs(connection).create("autotune", "", {"apply": True}, by="test", now_s=0.0)
        attempt = await Jobs(connection).begin(job.id, 0.0)
        assert attempt is not None
        return await run(Context(runtime, connection, attempt))

    result = await tuned(KvBits.FOUR)
    assert (result["proposals"], result["changed"], result["left"]) == ([], [], [])
    assert [one["bot"] for one in result["dropped"]] == ["acme/support"]
    assert "m holds KV at 4 bits now, this policy promises 8" in result["dropped"][0]["why"]
    assert (await read_registry(connection)).tenants["acme"].config.bots["support"].kv.bits == 4
    assert (await tuned(KvBits.EIGHT))["changed"] == ["acme/support"]
