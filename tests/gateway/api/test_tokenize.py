"""Tokens of texts and of messages, and where only their number is known."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from services.tokenizer.tokenizer import Tokenizer
from tests.gateway.conftest import ACME, Host
from tests.gateway.test_bad_input import error_of

MESSAGES = [{"role": "user", "content": "Hello there"}]


async def tokenize(host: Host, path: str = "/tokenize", **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {ACME}"}
    return await host.http.post(host.url + path, headers=headers, json={"model": "support", **body})


async def test_a_text(host: Host, tokenizer: Tokenizer) -> None:
    for path in ("/tokenize", "/v1/tokenize"):
        ids = tokenizer.encode("Hello there")
        shown = (await tokenize(host, path, prompt="Hello there")).json()
        assert shown == {"count": len(ids), "max_model_len": 2048, "tokens": ids, "token_strs": None}
    assert (await tokenize(host, model="tiny", prompt="")).json()["max_model_len"] == 128


async def test_messages_count_as_much_as_a_chat_takes(host: Host) -> None:
    shown = (await tokenize(host, messages=MESSAGES)).json()
    chat = await host.ask({"model": "support", "messages": MESSAGES})
    assert shown["count"] == len(shown["tokens"]) == chat.json()["usage"]["prompt_tokens"]
    assert list(host.driver.claims[0].payload.prompt) == shown["tokens"]


async def test_a_tokenizer_that_only_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "exact", property(lambda _: False))
    monkeypatch.setattr(Tokenizer, "raw_prompt", lambda _, text, **__: text)
    for body in ({"prompt": "Hello there"}, {"messages": MESSAGES}):
        shown = (await tokenize(host, **body)).json()
        assert shown["tokens"] is None
        assert shown["count"] > 0
        assert "engine" in shown["note"]


async def test_what_is_refused(host: Host) -> None:
    error_of(await tokenize(host), 400, "invalid_value", "prompt")
    error_of(await tokenize(host, prompt="x", messages=MESSAGES), 400, "invalid_value", "prompt")
    error_of(await tokenize(host, prompt=[1]), 400, "invalid_value", "prompt")
    error_of(
        await tokenize(host, messages=[{"role": "user"}]), 400, "missing_required_parameter", "messages[0].content"
    )
    error_of(await tokenize(host, prompt="x", model="globex/returns"), 404, "model_not_found", "model")
    for text in ("word " * 3000, "x" * 200_000):
        error_of(await tokenize(host, prompt=text), 400, "context_length_exceeded", "prompt")
    answer = await host.http.post(f"{host.url}/tokenize", json={"model": "support", "prompt": "x"})
    error_of(answer, 401, "invalid_api_key")
