"""Simon Willison's `llm`: its command line, with the bot as an extra OpenAI model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.clients.checks import BOT, QUESTION, RAW, V1, check, run

HOME = Path(os.environ["BUNKHOUSE_SCRATCH"]) / "llm"
MODELS = f"""\
- model_id: bot
  model_name: {BOT}
  api_base: {V1}
  api_key_name: bunkhouse
  supports_schema: true
  supports_tools: true
- model_id: nobody
  model_name: acme/nobody
  api_base: {V1}
  api_key_name: bunkhouse
- model_id: raw
  model_name: {RAW}
  api_base: {V1}
  api_key_name: bunkhouse
  completion: true
"""
TOOL = """\
def get_time() -> str:
    "The time now"
    return "noon"
"""


def llm(*arguments: str, expect: int = 0) -> str:
    """Its output."""
    HOME.mkdir(exist_ok=True)
    (HOME / "extra-openai-models.yaml").write_text(MODELS)
    (HOME / "keys.json").write_text(json.dumps({"bunkhouse": os.environ["BUNKHOUSE_KEY"]}))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("llm")), *arguments],
        env={**os.environ, "LLM_USER_PATH": str(HOME)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr[-2000:]
    return done.stdout + done.stderr


@check("chat", "a prompt is answered without a stream")
def _() -> None:
    assert llm("-m", "bot", "--no-stream", QUESTION).strip()


@check("stream", "a prompt is answered in a stream, with a system prompt, options and usage")
def _() -> None:
    said = llm("-m", "bot", "-u", "-s", "Be brief.", "-o", "temperature", "0", "-o", "max_tokens", "24", QUESTION)
    assert "Token usage" in said


@check("system", "a conversation is continued")
def _() -> None:
    llm("-m", "bot", "-s", "Be brief.", "-o", "max_tokens", "24", "Hello")
    assert llm("-c", "-o", "max_tokens", "24", QUESTION).strip()


@check("typed", "--schema gives JSON that fits")
def _() -> None:
    said = llm("-m", "bot", "-o", "max_tokens", "200", "--schema", "age int, member bool", "Invent a customer.")
    found = json.loads(said)
    assert isinstance(found["age"], int)
    assert isinstance(found["member"], bool)


@check("tools", "functions are offered; the chain ends with an answer, or at its limit after calls that ran")
def _() -> None:
    arguments = ("-m", "bot", "--functions", TOOL, "--td", "-o", "max_tokens", "64", "--cl", "3", QUESTION)
    try:
        assert llm(*arguments).strip()
    except AssertionError as error:  # a small model may go on calling
        if "Chain limit" not in str(error) or "get_time" not in str(error):
            raise


@check("sampling", "a seed repeats an answer; penalties are taken")
def _() -> None:
    options = [word for pair in (("seed", "7"), ("top_p", "0.9"), ("max_tokens", "16")) for word in ("-o", *pair)]
    first, second = (llm("-m", "bot", "--no-stream", *options, "-o", "presence_penalty", "0.1", QUESTION) for _ in "ab")
    assert first == second


@check("stop", "a stop sequence ends an answer")
def _() -> None:
    options = ("-m", "bot", "--no-stream", "-o", "temperature", "0", "-o", "max_tokens", "24")
    word = llm(*options, QUESTION).split()[3]
    assert word not in llm(*options, "-o", "stop", word, QUESTION)


@check("errors", "an unknown model is named")
def _() -> None:
    assert "acme/nobody" in llm("-m", "nobody", "--no-stream", QUESTION, expect=1)


@check("completions", "a completion model continues a text")
def _() -> None:
    assert "Paris" in llm("-m", "raw", "-o", "max_tokens", "8", "-o", "temperature", "0", "The capital of France is")


run()
