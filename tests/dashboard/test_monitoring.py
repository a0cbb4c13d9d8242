"""The Grafana dashboard and the alert rules ask for what /metrics has, in sound PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.desk.waiting import WaitingVisitors
from gateway.metrics import Metrics
from tests.snapshots import DEVICE, MODEL, snapshot

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "docs" / "grafana" / "bunkhouse.json"
ALERTS = ROOT / "docs" / "prometheus" / "alerts.yaml"

SNAPSHOT = snapshot(
    replace(MODEL, reserved_by_bits={"8": 2}, predicted_inter_token_s=0.01, observed_inter_token_s=0.01),
    devices={"gpu0": DEVICE},
    waiting_per_tenant={"acme": 1},
)
NAME = re.compile(r"\b(?:bunkhouse|gen_ai)_[a-z_]+\b")
SELECTOR = re.compile(r"((?:bunkhouse|gen_ai)_[a-z_]+)(?:\{([^}]*)\})?")
WORDS = {"sum", "rate", "by", "on", "or", "vector", "max", "min", "min_over_time", "histogram_quantile", "absent", "le"}


def exported() -> dict[str, set[str]]:
    """Sample name -> its labels, of a gateway that has seen everything once."""
    metrics = Metrics(per_tenant=True)
    metrics.host.snapshot = SNAPSHOT
    metrics.host.handovers_failed = 0
    metrics.host.visitors = WaitingVisitors(1, 20.0)
    metrics.requests.labels("r", "200", "ok").inc()
    metrics.overhead.observe(0.1)
    metrics.duration.labels("b", "").observe(0.1)
    metrics.first_token.labels("b").observe(0.1)
    metrics.per_token.labels("b").observe(0.1)
    metrics.tokens.labels("b", "output").observe(1)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Every expression, with where it stands."""
    for panel in json.loads(GRAFANA.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "5m")
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_asks_for_metrics_and_labels_that_there_are(where: str, query: str) -> None:
    known = exported()
    names = set(NAME.findall(query)) - {"gen_ai_request_model", "gen_ai_token_type"}
    assert names, where
    assert names <= known.keys(), where
    labels = set().union(*(known[name] for name in names))
    for _, matchers in SELECTOR.findall(query):
        for matcher in filter(None, matchers.split(",")):
            assert re.fullmatch(r'\s*[a-z_]+\s*(=|!=|=~|!~)\s*"[^"]*"\s*', matcher), where
            assert re.match(r"\s*([a-z_]+)", matcher)[1] in labels, where  # type: ignore[index]
    for grouping in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        assert {label.strip() for label in grouping.split(",")} <= labels, where


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_is_sound(where: str, query: str) -> None:
    """Brackets pair, functions are known, rates have a range and only counters are rated."""
    stack: list[str] = []
    for sign in re.sub(r'"[^"]*"', "", query):
        if sign in "([{":
            stack.append({"(": ")", "[": "]", "{": "}"}[sign])
        elif sign in ")]}":
            assert stack, where
            assert stack.pop() == sign, where
    assert not stack, where
    assert set(re.findall(r"\b([a-z_]+)\s*\(", query)) <= WORDS, where
    for name, window in re.findall(r"\brate\(\s*([a-z_]+)(?:\{[^}]*\})?(\[\d+[smh]\])?", query):
        assert window, where
        assert name.endswith(("_total", "_bucket", "_sum", "_count")), where
    for inner in re.findall(r"histogram_quantile\(0\.\d+, sum by \(([^)]*)\)", query):
        assert "le" in inner, where


def test_alerts_are_whole() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
        for text in rule["annotations"].values():
            assert text.count("{{") == text.count("}}")


def test_the_grafana_file_is_whole() -> None:
    dashboard: dict[str, Any] = json.loads(GRAFANA.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_metric_of_the_host_is_shown() -> None:
    asked = set().union(*(NAME.findall(query) for _, query in queries()))
    ours = {name for name in exported() if name.startswith("bunkhouse_") and not name.endswith(("_created", "_sum"))}
    unseen = {name.removesuffix("_bucket").removesuffix("_count") for name in ours - asked}
    assert unseen <= {"bunkhouse_gateway_open_chats", "bunkhouse_kv_free_bytes", "bunkhouse_gateway_overhead_seconds"}
