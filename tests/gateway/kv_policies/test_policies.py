"""KV policies: one conformance test over all, and what each promises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.kv_policies import NAMES, policy
from services.contracts.chats import KvBits, Task

ALL = (4, 8, 16)


@pytest.mark.parametrize("name", NAMES)
@given(task=st.sampled_from(Task), held=st.sets(st.sampled_from(ALL), min_size=1), pressure=st.floats(0, 1))
def test_every_policy_conforms(name: str, task: Task, held: set[int], pressure: float) -> None:
    made = policy(name)
    choice = made.choose(task, sorted(held), pressure)
    assert choice.floor <= choice.wanted
    assert not choice.demotable or choice.floor < choice.wanted
    assert int(choice.wanted) in held or choice.wanted == choice.floor > max(held), "held, or a floor out of reach"
    assert made.choose(task, sorted(held), pressure) == choice
    assert made.choose(task, sorted(held), 1.0).wanted <= choice.wanted, "pressure never asks for more"


@pytest.mark.parametrize("task", [Task.MATHS, Task.LOGIC, Task.CODE, Task.FACTS])
def test_auto_keeps_figures_at_8_bits(task: Task) -> None:
    assert policy("auto").choose(task, ALL, 1.0)[:2] == (8, 8)


@pytest.mark.parametrize("task", [Task.CREATIVE, Task.COMPLAINT])
def test_auto_gives_tone_4_bits(task: Task) -> None:
    assert policy("auto").choose(task, ALL, 0.0).wanted == 4


def test_auto_lets_general_support_be_lowered() -> None:
    assert policy("auto").choose(Task.SUPPORT, ALL, 0.0) == (8, 4, True)


@pytest.mark.parametrize("trade", ["medical", "finance"])
@pytest.mark.parametrize("task", Task)
def test_careful_trades_never_go_below_8_bits(trade: str, task: Task) -> None:
    assert policy(trade).choose(task, ALL, 1.0).floor == 8
    with pytest.raises(ValueError, match="floor"):
        policy(trade, floor=4)


@pytest.mark.parametrize("task", Task)
def test_manufacturing_takes_4_bits_for_speed(task: Task) -> None:
    assert policy("manufacturing").choose(task, ALL, 0.0) == (4, 4, False)


def test_pressure_starts_high_and_goes_low() -> None:
    made = policy("pressure", threshold=0.8)
    assert made.choose(Task.MATHS, ALL, 0.79) == (8, 4, True)
    assert made.choose(Task.MATHS, ALL, 0.80) == (4, 4, False)


def test_fixed_is_never_lowered_and_never_served_below() -> None:
    assert policy("fixed", bits=8).choose(Task.CREATIVE, ALL, 1.0) == (8, 8, False)
    assert policy("fixed", bits=16).choose(Task.CREATIVE, (4, 8), 1.0).floor == KvBits.SIXTEEN


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("cheap", {}, "cheap"),
        ("fixed", {"bits": 5}, "5"),
        ("auto", {"floor": 8, "ceiling": 4}, "ceiling"),
        ("auto", {"flor": 8}, "flor"),
        ("pressure", {"threshold": 0}, "threshold"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        policy(name, **options)
