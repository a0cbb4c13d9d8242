"""LangChain: langchain-openai's ChatOpenAI, and langchain-anthropic's ChatAnthropic."""

from __future__ import annotations

from typing import Any, Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

from tests.clients.checks import BOT, KEY, QUESTION, RAW, SHORT, THINKER, URL, V1, check, raises, run
from tests.clients.scripts.ticket import Ticket


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Today's weather in a city."""
    return f"It is sunny in {city}."


def model(**options: Any) -> ChatOpenAI:
    settings = {"model": BOT, "base_url": V1, "api_key": KEY, "max_tokens": 128, "max_retries": 0, "temperature": 0}
    return ChatOpenAI(**(settings | options))


@check("chat", "invoke answers, with usage")
def _() -> None:
    answer = model(max_tokens=SHORT).invoke(QUESTION)
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


@check("system", "a system message and a history are taken")
def _() -> None:
    history = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage(QUESTION)]
    assert model(max_tokens=SHORT).invoke(history).content


@check("stream", "stream gives several pieces, with usage at the end")
def _() -> None:
    chunks = list(model(max_tokens=SHORT, stream_usage=True).stream(QUESTION))
    assert len([chunk for chunk in chunks if chunk.content]) > 3
    assert any(chunk.usage_metadata for chunk in chunks)


@check("stream", "astream gives several pieces")
async def _() -> None:
    assert len([chunk async for chunk in model(max_tokens=SHORT).astream(QUESTION) if chunk.content]) > 3


@check("tools", "bind_tools with tool_choice any calls the tool")
def _() -> None:
    answer = model().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke(QUESTION)
    (call,) = answer.tool_calls
    assert "sunny" in get_weather.invoke(call["args"])


@check("tools", "bind_tools with a tool's name streams its call")
def _() -> None:
    chunks = list(
        model().bind_tools([get_weather], tool_choice="get_weather", parallel_tool_calls=False).stream(QUESTION)
    )
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = whole.tool_calls
    assert call["name"] == "get_weather"
    assert call["args"]["city"] in ("Paris", "Rome")


@check("tools", "bind_tools with the default choice answers")
def _() -> None:
    answer: Any = model().bind_tools([get_weather]).invoke(QUESTION)
    assert answer.content or answer.tool_calls


@check("round trip", "a ToolMessage is answered with text")
def _() -> None:
    call: Any = model().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke(QUESTION)
    result: ToolMessage = get_weather.invoke(call.tool_calls[0])
    answer = model(max_tokens=SHORT).invoke([HumanMessage(QUESTION), call, result])
    assert answer.content


@check("typed", "with_structured_output validates, by its default method")
def _() -> None:
    assert isinstance(model().with_structured_output(Ticket).invoke(QUESTION), Ticket)


@check("typed", "with_structured_output validates by function_calling and by strict json_schema")
def _() -> None:
    for method in ("function_calling", "json_schema"):
        structured = model().with_structured_output(Ticket, method=method, strict=True)
        assert isinstance(structured.invoke(QUESTION), Ticket)


@check("reasoning", "thoughts are reasoning blocks, over the Responses API")
def _() -> None:
    thinker = model(model=THINKER, use_responses_api=True, reasoning={"summary": "auto"}, max_tokens=SHORT)
    blocks: Any = thinker.invoke(QUESTION).content_blocks
    assert any(block["type"] == "reasoning" and block["reasoning"] for block in blocks)


@check("sampling", "a seed repeats an answer; top_k and min_p are taken in extra_body")
def _() -> None:
    other = model(temperature=1, seed=7, top_p=0.9, max_tokens=SHORT, extra_body={"top_k": 20, "min_p": 0.05})
    assert other.invoke(QUESTION).content == other.invoke(QUESTION).content


@check("stop", "stop ends an answer")
def _() -> None:
    whole = str(model(max_tokens=SHORT).invoke(QUESTION).content)
    word = whole.split()[3]
    assert model(max_tokens=SHORT).invoke(QUESTION, stop=[word]).content == whole[: whole.index(word)]


@check("n", "n gives several generations")
def _() -> None:
    result = model(n=2, temperature=1, max_tokens=SHORT).generate([[HumanMessage(QUESTION)]])
    assert len(result.generations[0]) == 2


@check("completions", "the OpenAI class continues a text")
def _() -> None:
    raw = OpenAI(model=RAW, base_url=V1, api_key=SecretStr(KEY), max_tokens=8, temperature=0, max_retries=0)
    assert "Paris" in raw.invoke("The capital of France is")


@check("logprobs", "bind(logprobs=True) gives logprobs")
def _() -> None:
    answer = model(max_tokens=4).bind(logprobs=True).invoke(QUESTION)
    assert len(answer.response_metadata["logprobs"]["content"]) == 4


@check("responses", "use_responses_api answers, and streams")
def _() -> None:
    other = model(use_responses_api=True, max_tokens=SHORT)
    assert other.invoke(QUESTION).text
    assert len([chunk for chunk in other.stream(QUESTION) if chunk.text]) > 3


@check("messages", "ChatAnthropic answers, streams and calls a tool")
def _() -> None:
    other = ChatAnthropic(
        model_name=BOT, base_url=URL, api_key=SecretStr(KEY), max_tokens_to_sample=128, timeout=60, stop=None
    )
    assert other.invoke(QUESTION).text
    assert len([chunk for chunk in other.stream(QUESTION) if chunk.text]) > 3
    call: Any = other.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False).invoke(QUESTION)
    assert [each["name"] for each in call.tool_calls] == ["get_weather"]


@check("errors", "an unknown model is named")
def _() -> None:
    with raises(Exception, "acme/nobody"):
        model(model="acme/nobody").invoke(QUESTION)


run()
