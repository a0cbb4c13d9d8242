"""anthropic, against /v1/messages."""

from __future__ import annotations

import json
from typing import Any

import anthropic

from tests.clients.checks import BOT, KEY, QUESTION, SHORT, THINKER, URL, check, raises, run
from tests.clients.scripts.tools import CITIES, WEATHER_SCHEMA

client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
USER: Any = {"role": "user", "content": QUESTION}
WEATHER: Any = {"name": "get_weather", "description": "Today's weather in a city", "input_schema": WEATHER_SCHEMA}
ORDER: Any = {
    "name": "find_order",
    "input_schema": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
}


ANY: Any = {"type": "any", "disable_parallel_tool_use": True}
COLD: Any = {"extra_body": {"temperature": 0}}  # this SDK has no arguments for sampling


def ask(**options: Any) -> Any:
    return client.messages.create(**({"model": BOT, "messages": [USER], "max_tokens": SHORT} | options))


@check("models", "models are listed")
def _() -> None:
    assert BOT in [model.id for model in client.models.list()]


@check("messages", "a question is answered, with usage and a stop reason")
def _() -> None:
    answer = ask()
    assert answer.content[0].type == "text"
    assert answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.input_tokens > 0
    assert 0 < answer.usage.output_tokens <= SHORT


@check("messages", "count_tokens counts what the answer's usage says")
def _() -> None:
    counted = client.messages.count_tokens(model=BOT, messages=[USER]).input_tokens
    usage = ask().usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@check("system", "a system prompt is taken, as text and as cached blocks")
def _() -> None:
    blocks = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    for system in ("Be brief.", blocks):
        assert ask(system=system).content[0].text


@check("stream", "a stream has several pieces, and they make the whole answer")
def _() -> None:
    with client.messages.stream(model=BOT, messages=[USER], max_tokens=SHORT, **COLD) as stream:
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == ask(**COLD).content[0].text
    assert answer.usage.output_tokens > 0


@check("stream", "a raw stream has Anthropic's events in their order")
def _() -> None:
    kinds = [event.type for event in ask(stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@check("tools", "tool_choice any calls a tool with valid input")
def _() -> None:
    answer = ask(tools=[WEATHER], tool_choice=ANY, max_tokens=128)
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert call.input["city"] in CITIES
    assert answer.stop_reason == "tool_use"


@check("tools", "a named tool of two is called")
def _() -> None:
    answer = ask(tools=[WEATHER, ORDER], tool_choice={"type": "tool", "name": "find_order"}, max_tokens=128)
    assert [block.name for block in answer.content if block.type == "tool_use"] == ["find_order"]


@check("tools", "tool_choice auto answers with text or a call")
def _() -> None:
    assert ask(tools=[WEATHER, ORDER], max_tokens=128).content


@check("tools", "a call's input is streamed")
def _() -> None:
    with client.messages.stream(model=BOT, messages=[USER], tools=[WEATHER], tool_choice=ANY, max_tokens=128) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert "input_json" in kinds
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert call.input["city"] in CITIES


@check("round trip", "a tool_result is answered with text")
def _() -> None:
    answer = ask(tools=[WEATHER], tool_choice=ANY, max_tokens=128)
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "clear"}]}
    history = [USER, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    last = ask(tools=[WEATHER], tool_choice={"type": "none"}, messages=history)
    assert last.content[0].text


@check("typed", "output_config with a schema gives a typed result")
def _() -> None:
    schema = {"type": "json_schema", "schema": WEATHER_SCHEMA}
    answer = ask(output_config={"format": schema}, max_tokens=128)
    assert json.loads(answer.content[0].text)["city"] in CITIES


@check("reasoning", "thoughts are thinking blocks, whole and streamed")
def _() -> None:
    assert ask(model=THINKER).content[0].type == "thinking"
    kinds = [event.delta.type for event in ask(model=THINKER, stream=True) if event.type == "content_block_delta"]
    assert kinds.count("thinking_delta") > 3


@check("stop", "a stop sequence ends an answer, which names it")
def _() -> None:
    whole = ask(**COLD).content[0].text
    word = whole.split()[3]
    cut = ask(stop_sequences=[word], **COLD)
    assert cut.content[0].text == whole[: whole.index(word)]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)


@check("sampling", "top_k, top_p and temperature are taken")
def _() -> None:
    assert ask(extra_body={"top_k": 20, "temperature": 0.5}).content[0].text
    assert ask(extra_body={"top_p": 0.9}).content[0].text


@check("hints", "metadata, service_tier and betas are ignored")
def _() -> None:
    assert ask(metadata={"user_id": "u"}, service_tier="auto").content[0].text
    beta = client.beta.messages.create(model=BOT, messages=[USER], max_tokens=SHORT, betas=["a-beta-2026-01-01"])
    assert beta.content


@check("errors", "a wrong key, an unknown model and a bad value raise Anthropic's exceptions")
def _() -> None:
    with raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(model=BOT, messages=[USER], max_tokens=1)
    with raises(anthropic.NotFoundError, "acme/nobody"):
        ask(model="acme/nobody")
    with raises(anthropic.BadRequestError, "max_tokens"):
        ask(max_tokens=0)


run()
