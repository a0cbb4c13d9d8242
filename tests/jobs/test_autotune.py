"""Proposals follow what was measured and how short memory is, and leave a trade's floor alone."""

from __future__ import annotations

from typing import Any

import pytest

from services.config import BotConfig, KvPolicyConfig, TenantConfig
from services.jobs.autotune import proposals
from services.jobs.figures import Measured
from services.registry import Registry, TenantRecord


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
