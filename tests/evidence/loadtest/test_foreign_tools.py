"""The ecosystem's own load tools against a whole host: they must not notice that it is not their usual server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from services.evidence.corpus import dialogues
from tests.engines.kits import CACHE, SGLANG_PYTHON
from tests.host_process import HostProcess

RUN_S_MAX = 900.0  # foreign tools take long to start, and a busy machine some times as long
pytestmark = pytest.mark.timeout(RUN_S_MAX + 60.0)

LOCUST = CACHE / "locust-2.47.0" / "bin" / "locust"
TOKENIZER = CACHE / "smollm2-135m-2"


def _run(command: list[str], host: HostProcess) -> str:
    environment = os.environ | {"ACME_KEY": host.keys["acme"], "OPENAI_API_KEY": host.keys["acme"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not LOCUST.exists(), reason="no Locust (make locust-env)")
def test_locust(laptop_host: HostProcess) -> None:
    script = "examples/loadtest/locustfile.py"
    options = ["--headless", "-u", "3", "-r", "3", "-t", "8s", "-s", "60", "--json", "--only-summary"]
    said = json.loads(_run([str(LOCUST), "-f", script, "--host", laptop_host.url, *options], laptop_host))
    rows = {row["name"]: row for row in said}
    assert rows["answer"]["num_requests"] >= 3
    assert rows["first token"]["num_requests"] >= 3
    assert all(row["num_failures"] == 0 for row in said)


@pytest.mark.skipif(
    not (Path(SGLANG_PYTHON).exists() and (TOKENIZER / "tokenizer.json").exists()),
    reason="no SGLang environment, or no tokenizer folder beside it",
)
def test_sglang_bench_serving(laptop_host: HostProcess, tmp_path: Path) -> None:
    data, out = tmp_path / "chats.jsonl", tmp_path / "out.jsonl"
    chats = [{"messages": [{"role": "user", "content": d.turns[0].user}], "max_tokens": 12} for d in dialogues()[:6]]
    data.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    command = [str(SGLANG_PYTHON), "-m", "sglang.benchmark.serving", "--backend", "sglang-oai-chat"]
    command += ["--base-url", laptop_host.url, "--served-model-name", "acme/support", "--model", str(TOKENIZER)]
    command += ["--dataset-name", "openai", "--dataset-path", str(data), "--num-prompts", "6", "--request-rate", "3"]
    # Its stream parser takes data lines only, and breaks on the event ids that resuming needs.
    _run([*command, "--disable-ignore-eos", "--disable-stream", "--output-file", str(out)], laptop_host)
    figures = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
    assert figures["completed"] == 6
    assert figures["mean_e2e_latency_ms"] > 0
    assert figures["total_output_tokens"] > 0
