"""SGLang's bench client: `python -m sglang.benchmark.serving`, streaming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.clients.checks import BOT, QUESTION, RAW, SHORT, URL, check, run

FOLDER = Path(os.environ["BUNKHOUSE_SCRATCH"])


def bench(backend: str, model: str, *dataset: str) -> dict[str, object]:
    """Its own figures of four requests."""
    out = FOLDER / f"{backend}.jsonl"
    command = [sys.executable, "-m", "sglang.benchmark.serving", "--backend", backend, "--base-url", URL, *dataset]
    command += ["--served-model-name", model, "--model", os.environ["BUNKHOUSE_TOKENIZER"], "--num-prompts", "4"]
    command += ["--request-rate", "4", "--output-file", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-300:]
    figures: dict[str, object] = json.loads(out.read_text().splitlines()[-1])
    assert figures["completed"] == 4
    return figures


@check("stream", "sglang-oai-chat takes streams; ignore_eos gives all tokens that were asked for")
def _() -> None:
    data = FOLDER / "chats.jsonl"
    chat = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": SHORT}
    data.write_text((json.dumps(chat) + "\n") * 4)
    figures = bench("sglang-oai-chat", BOT, "--dataset-name", "openai", "--dataset-path", str(data))
    assert figures["total_output_tokens"] == 4 * SHORT
    assert float(str(figures["mean_ttft_ms"])) > 0


@check("completions", "sglang-oai takes streams of completions")
def _() -> None:
    lengths = ("--random-input-len", "16", "--random-output-len", str(SHORT), "--random-range-ratio", "1")
    figures = bench("sglang-oai", RAW, "--dataset-name", "random-ids", *lengths)
    assert figures["total_output_tokens"] == 4 * SHORT


run()
