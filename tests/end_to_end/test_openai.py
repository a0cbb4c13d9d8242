"""What a user of the unmodified openai client sees, on the whole host with the real engine."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.end_to_end.streams import BOTS
from tests.host_process import HostProcess

QUESTION = "My blender does not start. What can I do?"


@pytest.fixture
def client(host: HostProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{host.url}/v1", api_key=host.keys["acme"], max_retries=0)


def ask(client: openai.OpenAI, **options: object) -> openai.types.chat.ChatCompletion:
    settings = {"model": "acme/support", "max_tokens": 24, "temperature": 0} | options
    return client.chat.completions.create(messages=[{"role": "user", "content": QUESTION}], **settings)  # type: ignore[call-overload,no-any-return]


def text_of(answer: openai.types.chat.ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def test_a_question_is_answered_with_usage(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert "blender" in text_of(answer)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    chunks, pieces = _streamed(client)
    for _ in range(9):  # a host that falls behind joins pieces: on a busy machine one answer proves nothing
        if len(pieces) <= 10:
            chunks, pieces = _streamed(client)
    assert len(pieces) > 10
    assert "".join(pieces) == text_of(ask(client))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24


def _streamed(client: openai.OpenAI) -> tuple[list[openai.types.chat.ChatCompletionChunk], list[str]]:
    """All chunks of a streamed answer, and the text of those that have some."""
    stream = client.chat.completions.create(
        model="acme/support",
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    return chunks, [text for text in texts if text]


def test_stop_sequences_end_the_answer(client: openai.OpenAI) -> None:
    whole = text_of(ask(client))
    stop = whole.split()[4]
    answer = ask(client, stop=[stop])
    assert text_of(answer) == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats_and_temperature_varies(client: openai.OpenAI) -> None:
    hot = {"temperature": 1.5, "max_tokens": 16}
    assert text_of(ask(client, seed=7, **hot)) == text_of(ask(client, seed=7, **hot))
    assert len({text_of(ask(client, seed=seed, **hot)) for seed in range(4)}) > 1


def test_a_tenant_sees_its_own_bots_only(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [BOTS["acme"]]
    assert client.models.retrieve("acme/support").owned_by == "acme"
    with pytest.raises(openai.NotFoundError, match="globex/returns"):
        client.models.retrieve("globex/returns")
    with pytest.raises(openai.NotFoundError):
        ask(client, model="globex/returns")


def test_errors_are_openai_exceptions(host: HostProcess, client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="bh-nobody"))
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, temperature=9)
    with pytest.raises(openai.BadRequestError, match="tools"):
        ask(client, tools=[{"type": "function", "function": {"name": "../f"}}])
    with pytest.raises(openai.BadRequestError, match="8192"):
        client.chat.completions.create(model="acme/support", messages=[{"role": "user", "content": "word " * 9000}])


def test_open_webui_lists_models_and_names_its_chat(host: HostProcess) -> None:
    headers = host.headers("acme") | {"X-OpenWebUI-User-Id": "u1", "X-OpenWebUI-Chat-Id": "c1"}
    assert httpx.get(f"{host.url}/v1/models", headers=headers).json()["data"][0]["id"] == "acme/support"
    body = {
        "model": "acme/support",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 4,
    }
    answer = httpx.post(f"{host.url}/v1/chat/completions", headers=headers, json=body, timeout=30)
    assert answer.text.endswith("data: [DONE]\n\n")


def test_both_kv_precisions_serve_side_by_side(host: HostProcess) -> None:
    bits = {}
    for tenant, bot in BOTS.items():
        body = {"model": bot, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        answer = httpx.post(f"{host.url}/v1/chat/completions", headers=host.headers(tenant), json=body, timeout=30)
        bits[tenant] = answer.headers["x-bunkhouse-kv-bits"]
    assert bits == {"acme": "8", "globex": "4"}
