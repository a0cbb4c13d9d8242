"""LlamaIndex: OpenAILike."""

from typing import Any, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.clients.checks import BOT, KEY, QUESTION, RAW, SHORT, V1, check, raises, run
from tests.clients.scripts.ticket import Ticket


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Today's weather in a city."""
    return f"It is sunny in {city}."


def model(**options: Any) -> OpenAILike:
    settings = {"model": BOT, "api_base": V1, "api_key": KEY, "max_tokens": SHORT, "max_retries": 0}
    return OpenAILike(**(settings | {"is_chat_model": True, "context_window": 2048} | options))


@check("chat", "chat answers")
def _() -> None:
    assert model().chat([ChatMessage(role="user", content=QUESTION)]).message.content


@check("system", "a system message is taken")
def _() -> None:
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
    assert model().chat(messages).message.content


@check("stream", "stream_chat gives several pieces")
def _() -> None:
    chunks = list(model().stream_chat([ChatMessage(role="user", content=QUESTION)]))
    assert len([chunk for chunk in chunks if chunk.delta]) > 3


@check("completions", "complete and stream_complete, the defaults of OpenAILike, continue a text")
def _() -> None:
    raw = model(model=RAW, is_chat_model=False, temperature=0)
    assert "Paris" in raw.complete("The capital of France is").text
    assert len([chunk for chunk in raw.stream_complete("One, two, three,") if chunk.delta]) > 3


@check("tools", "chat_with_tools calls a required tool")
def _() -> None:
    other = model(is_function_calling_model=True, max_tokens=128)
    tool = FunctionTool.from_defaults(fn=get_weather)
    answer = other.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    (call,) = other.get_tool_calls_from_response(answer)
    assert "sunny" in get_weather(**call.tool_kwargs)


@check("round trip", "predict_and_call runs the tool; its result in the history is answered with text")
def _() -> None:
    other = model(is_function_calling_model=True, max_tokens=128, temperature=0)
    tool = FunctionTool.from_defaults(fn=get_weather)
    user = ChatMessage(role="user", content=QUESTION)
    answer = other.chat_with_tools([tool], chat_history=[user], tool_required=True)
    (call,) = other.get_tool_calls_from_response(answer)
    result = ChatMessage(
        role="tool", content=get_weather(**call.tool_kwargs), additional_kwargs={"tool_call_id": call.tool_id}
    )
    assert other.chat([user, answer.message, result]).message.content


@check("sampling", "a seed repeats an answer; additional_kwargs are sent")
def _() -> None:
    other = model(temperature=1, additional_kwargs={"seed": 7, "top_p": 0.9, "extra_body": {"top_k": 20}})
    first, second = (other.chat([ChatMessage(role="user", content=QUESTION)]).message.content for _ in range(2))
    assert first == second


@check("stop", "stop ends an answer")
def _() -> None:
    user = ChatMessage(role="user", content=QUESTION)
    whole = str(model(temperature=0).chat([user]).message.content)
    word = whole.split()[3]
    assert model(temperature=0).chat([user], stop=[word]).message.content == whole[: whole.index(word)]


@check("logprobs", "logprobs for each token")
def _() -> None:
    answer = model(logprobs=True, top_logprobs=2, max_tokens=4).chat([ChatMessage(role="user", content=QUESTION)])
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 4


@check("errors", "an unknown model is named")
def _() -> None:
    with raises(Exception, "acme/nobody"):
        model(model="acme/nobody").chat([ChatMessage(role="user", content=QUESTION)])


@check("typed", "structured_predict validates")
def _() -> None:
    from llama_index.core.prompts import PromptTemplate

    other = model(is_function_calling_model=True, max_tokens=128)
    assert isinstance(other.structured_predict(Ticket, PromptTemplate(QUESTION)), Ticket)


run()
