"""Scenarios, arrivals and sessions: what is decided before anything is sent."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config.yaml_file import ConfigError, YamlFile
from services.contracts.scenario import Bursty, Diurnal, Poisson, Scenario
from services.evidence.loadtest.arrivals import arrival_times
from services.evidence.loadtest.session import plan_session
from tests.evidence.loadtest.helpers import scenario

GOOD = """\
name: day
tenants:
  - name: acme
    model: acme/support
    arrivals:
      kind: poisson
      sessions_per_s: 2
"""


def _load(folder: Path, text: str) -> None:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    YamlFile(path).read_as(Scenario)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("name: day", "name: day\nseeed: 3"), "s.yaml:2: seeed: unknown key"),
        (("_per_s: 2", "_per_s: 2\n      users: 3"), "s.yaml:8: tenants.0.arrivals.users: unknown"),
        (("_per_s: 2", "_per_s: -2"), "s.yaml:7: tenants.0.arrivals.sessions_per_s: Input should be greater"),
        (("      sessions_per_s: 2\n", ""), "s.yaml:5: tenants.0.arrivals.sessions_per_s: Field required"),
        (("kind: poisson", "kind: weekly"), "s.yaml:5: tenants.0.arrivals: Input tag 'weekly'"),
        (("name: day", "name: [day"), "s.yaml:2: expected ',' or ']'"),
        (("name: day", "name: day\nwarmup_s: 99"), "warmup_s (99.0) must be below duration_s (60.0)"),
    ],
)  # fmt: skip
def test_a_wrong_scenario_is_refused_with_its_line(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, GOOD.replace(*change))
    assert complaint in str(caught.value)


def test_every_wrong_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, GOOD.replace("name: day", "name: day\nx: 1\ny: 2"))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == ["x", "y"]


def test_a_missing_key_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_KEY", raising=False)
    plan = scenario("http://127.0.0.1:9/v1", {"key_env": "ACME_KEY"})
    with pytest.raises(ValueError, match="tenant t0: the environment variable ACME_KEY is not set"):
        plan.tenants[0].api_key()


def test_the_examples_are_valid() -> None:
    paths = sorted(Path("examples/loadtest").glob("*.yaml"))
    assert len(paths) >= 5
    for path in paths:
        assert YamlFile(path).read_as(Scenario).tenants


@given(st.integers(0, 10**6))
def test_arrivals_rise_and_keep_their_rate(seed: int) -> None:
    times = list(arrival_times(Poisson(kind="poisson", sessions_per_s=50), 100, random.Random(seed)))
    assert times == sorted(times)
    assert all(0 <= t < 100 for t in times)
    assert 5000 - 6 * 71 < len(times) < 5000 + 6 * 71  # six standard deviations


def test_a_burst_comes_when_it_should() -> None:
    bursty = Bursty(kind="bursty", sessions_per_s=1, burst_sessions_per_s=100, burst_s=2, every_s=10)
    times = list(arrival_times(bursty, 100, random.Random(3)))
    inside = sum(t % 10 < 2 for t in times)
    assert 1700 < inside < 2300
    assert 40 < len(times) - inside < 130


def test_a_day_has_its_noon() -> None:
    diurnal = Diurnal(kind="diurnal", low_sessions_per_s=1, high_sessions_per_s=21, period_s=400)
    times = list(arrival_times(diurnal, 400, random.Random(3)))
    thirds = [sum(low <= t < low + 100 for t in times) for low in (0, 150, 300)]
    assert thirds[1] > 2 * max(thirds[0], thirds[2])


def test_the_seed_alone_decides_what_users_say() -> None:
    one = scenario("http://127.0.0.1:9/v1", {"think_s_mean": 3}, seed=5)
    two = scenario("http://127.0.0.1:9/v1", {"think_s_mean": 3}, seed=6)
    first = [plan_session(one, one.tenants[0], n) for n in range(30)]
    again = [plan_session(one, one.tenants[0], n) for n in range(30)]
    other = [plan_session(two, two.tenants[0], n) for n in range(30)]
    assert first == again
    assert [p.turns for p in first] != [p.turns for p in other]
    assert all(p.turns[0].think_s == 0 and all(t.think_s > 0 for t in p.turns[1:]) for p in first)


def test_languages_and_tasks_are_kept() -> None:
    chats = {"kind": "dialogues", "languages": ["ja"], "tasks": ["complaint", "code"], "turns_max": 2}
    plan = scenario("http://127.0.0.1:9/v1", {"chats": chats})
    sessions = [plan_session(plan, plan.tenants[0], n) for n in range(40)]
    assert {s.language for s in sessions} == {"ja"}
    assert {s.task for s in sessions} == {"complaint", "code"}
    assert {len(s.turns) for s in sessions} == {2}
