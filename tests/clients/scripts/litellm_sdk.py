"""LiteLLM's SDK, with the provider prefixes openai/, text-completion-openai/ and anthropic/."""

from __future__ import annotations

from typing import Any

import litellm

from tests.clients.checks import BOT, KEY, QUESTION, RAW, SHORT, THINKER, URL, V1, check, raises, run
from tests.clients.scripts.ticket import Ticket
from tests.clients.scripts.tools import CITIES, WEATHER

litellm.suppress_debug_info = True
litellm.telemetry = False
USER: Any = {"role": "user", "content": QUESTION}


def ask(**options: Any) -> Any:
    settings = {"model": f"openai/{BOT}", "api_base": V1, "api_key": KEY, "messages": [USER], "num_retries": 0}
    return litellm.completion(**(settings | {"max_tokens": SHORT} | options))


@check("chat", "completion answers, with usage")
def _() -> None:
    answer = ask()
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


@check("stream", "a stream has several pieces")
def _() -> None:
    assert len([chunk for chunk in ask(stream=True) if chunk.choices[0].delta.content]) > 3


@check("tools", "a required tool is called with valid arguments")
def _() -> None:
    answer = ask(tools=[WEATHER], tool_choice="required", max_tokens=128).choices[0]
    assert any(city in answer.message.tool_calls[0].function.arguments for city in CITIES)
    assert answer.finish_reason == "tool_calls"


@check("round trip", "a tool's result in the history is answered with text")
def _() -> None:
    message = ask(tools=[WEATHER], tool_choice="required", max_tokens=128).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "clear"}
    answer = ask(tools=[WEATHER], tool_choice="none", messages=[USER, message.model_dump(), result])
    assert answer.choices[0].message.content


@check("typed", "response_format with a model validates")
def _() -> None:
    Ticket.model_validate_json(ask(response_format=Ticket, max_tokens=128).choices[0].message.content)


@check("reasoning", "thoughts are reasoning_content")
def _() -> None:
    assert ask(model=f"openai/{THINKER}").choices[0].message.reasoning_content


@check("reasoning", "thoughts are streamed as reasoning_content")
def _() -> None:
    chunks = list(ask(model=f"openai/{THINKER}", stream=True))
    assert len([chunk for chunk in chunks if getattr(chunk.choices[0].delta, "reasoning_content", None)]) > 3


@check("system", "a system message is taken")
def _() -> None:
    assert ask(messages=[{"role": "system", "content": "Be brief."}, USER]).choices[0].message.content


@check("tools", "a call is streamed")
def _() -> None:
    chunks = list(ask(tools=[WEATHER], tool_choice="required", max_tokens=128, stream=True))
    answer: Any = litellm.stream_chunk_builder(chunks)
    assert any(city in answer.choices[0].message.tool_calls[0].function.arguments for city in CITIES)


@check("sampling", "a seed repeats an answer; penalties, top_k and min_p are taken")
def _() -> None:
    options = {"seed": 7, "temperature": 1, "top_p": 0.9, "presence_penalty": 0.1, "extra_body": {"top_k": 20}}
    first, second = (ask(**options, min_p=0.05).choices[0].message.content for _ in range(2))
    assert first == second


@check("stop", "stop ends an answer")
def _() -> None:
    whole = ask(temperature=0).choices[0].message.content
    word = whole.split()[3]
    answer = ask(temperature=0, stop=[word]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (whole[: whole.index(word)], "stop")


@check("n", "n gives several choices")
def _() -> None:
    assert len(ask(n=2, temperature=1).choices) == 2


@check("logprobs", "logprobs for each token")
def _() -> None:
    answer = ask(logprobs=True, top_logprobs=2, max_tokens=4)
    assert len(answer.choices[0].logprobs.content) == 4


@check("hints", "hints are ignored")
def _() -> None:
    assert ask(user="u", store=False, service_tier="auto", metadata={"a": "b"}).choices[0].message.content


@check("completions", "text_completion continues a text")
def _() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{RAW}",
        prompt="The capital of France is",
        api_base=V1,
        api_key=KEY,
        max_tokens=8,
        temperature=0,
    )
    assert "Paris" in answer.choices[0].text


@check("responses", "responses answers")
def _() -> None:
    answer: Any = litellm.responses(
        model=f"openai/{BOT}", input=QUESTION, api_base=V1, api_key=KEY, max_output_tokens=SHORT
    )
    assert answer.output[0].content[0].text


@check("messages", "the anthropic/ prefix answers over /v1/messages")
def _() -> None:
    assert ask(model=f"anthropic/{BOT}", api_base=URL).choices[0].message.content


@check("errors", "an unknown model and a bad value raise LiteLLM's exceptions")
def _() -> None:
    with raises(litellm.NotFoundError, "acme/nobody"):
        ask(model="openai/acme/nobody")
    with raises(litellm.BadRequestError, "temperature"):
        ask(temperature=9)


run()
