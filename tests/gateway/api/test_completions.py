"""The completions API, asked by the unmodified openai client."""

from __future__ import annotations

from typing import Any

import httpx

from services.tokenizer.tokenizer import Tokenizer
from tests.gateway.conftest import ACME, Host
from tests.gateway.test_bad_input import error_of

TEXT = "Once upon a time"


async def post(host: Host, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {ACME}"}
    return await host.http.post(
        f"{host.url}/v1/completions", headers=headers, json={"model": "raw", "prompt": TEXT, **body}
    )


async def test_a_text(host: Host, tokenizer: Tokenizer) -> None:
    done = await host.client().completions.create(model="raw", prompt=TEXT, temperature=0, seed=1)
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("Hello, wörld!", "stop")
    assert done.object == "text_completion"
    assert done.usage is not None
    assert done.usage.prompt_tokens == len(tokenizer.encode(TEXT))
    assert list(host.driver.claims[0].payload.prompt) == tokenizer.encode(TEXT)
    assert host.driver.tickets[0].max_tokens == 16


async def test_a_stream(host: Host) -> None:
    stream = await host.client().completions.create(
        model="acme/raw", prompt=TEXT, stream=True, echo=True, max_tokens=4, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == f"{TEXT}Hello, wörld!"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


async def test_token_ids(host: Host, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for prompt in (ids, [ids]):
        done = (await post(host, prompt=prompt, echo=True)).json()
        assert done["choices"][0]["text"] == f"{TEXT}Hello, wörld!"
        assert list(host.driver.claims[-1].payload.prompt) == ids
    beyond = tokenizer.vocabulary
    assert f"below {beyond}" in error_of(await post(host, prompt=[beyond]), 400, "invalid_value", "prompt")


async def test_special_tokens_in_a_text_are_special(host: Host, tokenizer: Tokenizer) -> None:
    assert (await post(host, prompt="<|im_start|>user\nHi")).status_code == 200
    assert host.driver.claims[0].payload.prompt[0] == tokenizer.encode("<|im_start|>")[0]


async def test_what_is_refused(host: Host) -> None:
    assert "`completions`" in error_of(await post(host, model="support"), 400, "unsupported_parameter", "model")
    for name, value in (("suffix", "x"), ("best_of", 2), ("messages", []), ("cache_salt", "x")):
        error_of(await post(host, **{name: value}), 400, "unsupported_parameter", name)
    assert (await post(host, suffix=None, best_of=1)).status_code == 200
    bad: list[Any] = ["", [], [[]], [""], [-1], None, {"x": 1}, ["a", 1]]
    for prompt in bad:
        answer = await post(host, prompt=prompt)
        assert answer.status_code == 400, prompt
    error_of(await post(host, prompt="word " * 3000), 400, "context_length_exceeded", "prompt")
    error_of(await post(host, max_tokens=3000), 400, "context_length_exceeded", "max_tokens")
    assert len(host.driver.tickets) == 1
