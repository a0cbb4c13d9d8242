"""LiteLLM's proxy in front of the host, as openai-python sees it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai

from tests.clients.checks import BOT, KEY, QUESTION, SHORT, THINKER, V1, check, raises, run
from tests.clients.scripts.ticket import Ticket
from tests.clients.scripts.tools import CITIES, WEATHER

PROXY_KEY = "sk-clients"
START_S_MAX = 120.0
CONFIG = f"""\
model_list:
  - model_name: bot
    litellm_params: {{model: "openai/{BOT}", api_base: "{V1}", api_key: "{KEY}", max_retries: 0}}
  - model_name: thinker
    litellm_params: {{model: "openai/{THINKER}", api_base: "{V1}", api_key: "{KEY}", max_retries: 0}}
general_settings: {{master_key: "{PROXY_KEY}"}}
litellm_settings: {{telemetry: false}}
"""
USER: Any = {"role": "user", "content": QUESTION}


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The proxy on a port of its own, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "litellm.yaml").write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("litellm")), "--config", str(folder / "litellm.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    process = subprocess.Popen(command, cwd=folder, stdout=sys.stderr, stderr=sys.stderr)
    url, until_s = f"http://127.0.0.1:{port}", time.monotonic() + START_S_MAX
    while True:
        try:
            urllib.request.urlopen(f"{url}/health/liveliness", timeout=2).close()
        except OSError:
            if time.monotonic() > until_s or process.poll() is not None:
                process.kill()
                raise
            time.sleep(0.2)
        else:
            return process, url


proxy, proxy_url = start(Path(os.environ["BUNKHOUSE_SCRATCH"]))
client = openai.OpenAI(base_url=f"{proxy_url}/v1", api_key=PROXY_KEY, max_retries=0)


def ask(**options: Any) -> Any:
    return client.chat.completions.create(**({"model": "bot", "messages": [USER], "max_tokens": SHORT} | options))


@check("chat", "a question is answered, with usage")
def _() -> None:
    answer = ask()
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


@check("stream", "a stream has several pieces")
def _() -> None:
    assert len([chunk for chunk in ask(stream=True) if chunk.choices and chunk.choices[0].delta.content]) > 3


@check("tools", "a required tool is called with valid arguments")
def _() -> None:
    answer = ask(tools=[WEATHER], tool_choice="required", max_tokens=128).choices[0]
    assert any(city in answer.message.tool_calls[0].function.arguments for city in CITIES)


@check("typed", "chat.completions.parse gives a typed result")
def _() -> None:
    answer = client.chat.completions.parse(model="bot", messages=[USER], response_format=Ticket, max_tokens=128)
    assert isinstance(answer.choices[0].message.parsed, Ticket)


@check("reasoning", "thoughts are reasoning_content")
def _() -> None:
    assert ask(model="thinker").choices[0].message.reasoning_content


@check("round trip", "a tool's result in the history is answered with text")
def _() -> None:
    message = ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=128).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "clear"}
    answer = ask(tools=[WEATHER], tool_choice="none", messages=[USER, message.model_dump(), result])
    assert answer.choices[0].message.content


@check("logprobs", "logprobs for each token")
def _() -> None:
    assert len(ask(logprobs=True, top_logprobs=2, max_tokens=4).choices[0].logprobs.content) == 4


@check("n", "n gives several choices")
def _() -> None:
    assert len(ask(n=2, temperature=1).choices) == 2


@check("sampling", "a seed repeats an answer; top_k and min_p are taken in extra_body")
def _() -> None:
    options = {"seed": 7, "temperature": 1, "extra_body": {"top_k": 20, "min_p": 0.05}}
    first, second = (ask(**options).choices[0].message.content for _ in range(2))
    assert first == second


@check("responses", "responses.create answers")
def _() -> None:
    assert client.responses.create(model="bot", input=QUESTION, max_output_tokens=SHORT).output_text


@check("errors", "a bad request does not take the deployment from others")
def _() -> None:
    with raises(openai.BadRequestError, "temperature"):
        ask(temperature=9)
    assert ask().choices[0].message.content


try:
    run()
finally:
    proxy.terminate()
    proxy.wait()
