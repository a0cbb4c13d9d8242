"""The completions API, asked by the unmodified openai client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest

from services.contracts.engine_kinds import ENGINE_KINDS
from services.contracts.replies import ContentKind, Finish
from services.tokenizer.tokenizer import Tokenizer
from services.worker.parsers.base import Parsed
from tests.gateway.conftest import ACME, Host
from tests.gateway.driver import Script
from tests.gateway.test_bad_input import error_of
from tests.gateway.test_limits import limited

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


def lp(token: str, logprob: float | None) -> dict[str, Any]:
    one = {"token": token, "logprob": logprob, "bytes": list(token.encode())}
    return {**one, "top_logprobs": [] if logprob is None else [{**one, "token": "other"}, one]}


def scored(*tokens: tuple[str, float]) -> Script:
    """A model of an engine that gives the probabilities of a prompt's tokens, too."""
    prompt = [lp("Once", None), *(lp(token, -1.5) for token in (" upon", " a", " time"))]
    return Script(
        (
            Parsed(ContentKind.PROMPT, "", 0, logprobs=orjson.dumps(prompt).decode()),
            *(
                Parsed(ContentKind.CONTENT, token, 1, logprobs=orjson.dumps([lp(token, logprob)]).decode())
                for token, logprob in tokens
            ),
        ),
        finish=Finish.LENGTH,
    )


async def test_several_texts(host: Host) -> None:
    done = await host.client().completions.create(model="raw", prompt=TEXT, n=3, echo=True)
    assert [(choice.index, choice.text) for choice in done.choices] == [
        (index, f"{TEXT}Hello, wörld!") for index in range(3)
    ]
    assert done.usage is not None
    assert done.usage.completion_tokens == 12
    stream = await host.client().completions.create(model="raw", prompt=TEXT, n=2, stream=True)
    texts = {0: "", 1: ""}
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == dict.fromkeys(texts, "Hello, wörld!")
    assert len(host.driver.tickets) == 5
    error_of(await post(host, n=9), 400, "invalid_value", "n")


async def test_several_prompts(host: Host, tokenizer: Tokenizer) -> None:
    prompts = [TEXT, "Twice upon"]
    counts = [len(tokenizer.encode(prompt)) for prompt in prompts]
    host.driver.script_for = lambda ticket: Script(
        (f"{ticket.prompt_tokens}/", f"{ticket.choice}"), pause_s=0.02 * (3 - ticket.prompt_tokens % 3)
    )
    right = {2 * i + j: f"{prompts[i]}{counts[i]}/{j}" for i in range(2) for j in range(2)}
    both: list[Any] = [prompts, [tokenizer.encode(prompt) for prompt in prompts]]
    for asked in both:
        done = await host.client().completions.create(model="raw", prompt=asked, n=2, echo=True)
        assert {choice.index: choice.text for choice in done.choices} == right
        assert done.usage is not None
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (sum(counts), 8)
    stream = await host.client().completions.create(
        model="raw", prompt=prompts, n=2, echo=True, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    texts = dict.fromkeys(right, "")
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
    assert texts == right
    used = chunks[-1].usage
    assert used is not None
    assert (used.prompt_tokens, used.completion_tokens) == (sum(counts), 8)
    assert sorted(list(claim.payload.prompt) for claim in host.driver.claims[-4:]) == sorted(
        tokenizer.encode(prompt) for prompt in prompts for _ in range(2)
    )


async def test_several_prompts_come_in_together_or_not_at_all(host: Host, tokenizer: Tokenizer) -> None:
    tokens = [len(tokenizer.encode(prompt)) for prompt in (TEXT, "Twice upon")]
    await host.change(limited(tokens_per_minute=sum(tokens) + 4 * 16 - 1))
    refused = await post(host, prompt=[TEXT, "Twice upon"], n=2)
    error_of(refused, 429, "rate_limit_exceeded", "limits.tokens_per_minute")
    assert (await post(host, prompt=[TEXT, "Twice upon"], n=2, max_tokens=15)).status_code == 200
    error_of(await post(host, prompt=["a"] * 5, n=2), 400, "invalid_value", "prompt")
    error_of(await post(host, prompt=["a", "word " * 3000]), 400, "context_length_exceeded", "prompt")
    assert len(host.driver.tickets) == 4


async def test_one_key_stands_for_all_prompts(host: Host) -> None:
    async def ask(prompts: list[str]) -> httpx.Response:
        headers = {"authorization": f"Bearer {ACME}", "idempotency-key": "k"}
        body = {"model": "raw", "prompt": prompts}
        return await host.http.post(f"{host.url}/v1/completions", headers=headers, json=body)

    first, again = await ask(["One", "Two"]), await ask(["One", "Two"])
    assert first.json()["choices"] == again.json()["choices"]
    assert len(host.driver.tickets) == 2
    error_of(await ask(["One", "Three"]), 422, "idempotency_key_reused")


async def test_logprobs(host: Host) -> None:
    host.driver.script_for = lambda _: scored((" there", -0.5), (" was", -0.25))
    done = await host.client().completions.create(model="raw", prompt=TEXT, logprobs=2)
    found = done.choices[0].logprobs
    assert found is not None
    assert (found.tokens, found.token_logprobs) == ([" there", " was"], [-0.5, -0.25])
    assert found.top_logprobs == [{"other": -0.5, " there": -0.5}, {"other": -0.25, " was": -0.25}]
    assert found.text_offset == [0, 6]
    sampling = host.driver.claims[0].payload.sampling
    assert (sampling.top_logprobs, sampling.prompt_logprobs) == (2, False)


async def test_the_likelihood_of_a_prompt_as_evaluations_ask_for_it(
    host: Host, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lm-evaluation-harness does: echo, logprobs, and one token that it throws away, or none."""
    asked: dict[str, Any] = {
        "prompt": [tokenizer.encode(TEXT)],
        "echo": True,
        "logprobs": 1,
        "temperature": 0,
        "seed": 1,
    }
    refused = await post(host, **asked, max_tokens=1)
    assert "engine" in error_of(refused, 400, "unsupported_parameter", "logprobs")
    kind = replace(ENGINE_KINDS["llamacpp"], prompt_logprobs=True)
    monkeypatch.setattr(type(host.config.models["small"]), "kind", property(lambda _: kind))
    host.driver.script_for = lambda _: scored((" there", -0.5))
    one = (await post(host, **asked, max_tokens=1)).json()["choices"][0]
    assert (one["text"], one["finish_reason"]) == (f"{TEXT} there", "length")
    assert one["logprobs"]["token_logprobs"] == [None, -1.5, -1.5, -1.5, -0.5]
    assert one["logprobs"]["top_logprobs"][:2] == [None, {"other": -1.5, " upon": -1.5}]
    assert one["logprobs"]["text_offset"] == [0, 4, 9, 11, 16]
    none = (await post(host, **asked, max_tokens=0)).json()["choices"][0]
    assert none["text"] == TEXT
    assert none["logprobs"]["token_logprobs"] == [None, -1.5, -1.5, -1.5]
    assert host.driver.claims[-1].payload.sampling.prompt_logprobs
    assert host.driver.claims[-1].payload.output.plain
    streamed = (await post(host, **asked, max_tokens=1, stream=True)).text.split("\n\n")
    choices = [orjson.loads(event.removeprefix("data: "))["choices"][0] for event in streamed[:-2]]
    assert "".join(choice["text"] for choice in choices) == f"{TEXT} there"
    assert choices[1]["logprobs"]["text_offset"] == [16]
    error_of(await post(host, max_tokens=0), 400, "invalid_value", "max_tokens")


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
