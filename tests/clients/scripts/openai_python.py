"""openai-python."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
from pydantic import BaseModel

from tests.clients.checks import BOT, ENGINE, KEY, QUESTION, RAW, SHORT, THINKER, URL, V1, check, raises, run
from tests.clients.scripts.ticket import Quote

client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Today's weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ORDER: Any = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "An order by its number",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}
USER: Any = {"role": "user", "content": QUESTION}
HELLO: Any = {"role": "user", "content": "Hello"}  # its answer is short
FORCED: Any = {"tool_choice": "required", "parallel_tool_calls": False}  # a small model repeats itself
ONE: Any = {**FORCED, "max_tokens": 128}


class Ticket(BaseModel):
    """A typed answer."""

    topic: Literal["repair", "return"]
    urgent: bool


class GetWeather(BaseModel):
    """Today's weather in a city."""

    city: Literal["Paris", "Rome"]


def ask(**options: Any) -> Any:
    return client.chat.completions.create(**({"model": BOT, "messages": [USER], "max_tokens": SHORT} | options))


@check("models", "models are listed and one is retrieved")
def _() -> None:
    assert BOT in [model.id for model in client.models.list()]
    assert client.models.retrieve(BOT).id == BOT


@check("models", "a base URL without /v1 and one with a slash at the end work")
def _() -> None:
    for base in (URL, f"{V1}/"):
        assert BOT in [model.id for model in client.with_options(base_url=base).models.list()]


@check("chat", "a question is answered")
def _() -> None:
    answer = ask().choices[0]
    assert answer.message.content
    assert answer.message.role == "assistant"


@check("chat", "an answer with no max_tokens is longer than 256 tokens or ends by itself")
def _() -> None:
    answer = ask(max_tokens=openai.omit, temperature=0, messages=[{"role": "user", "content": "Count from 1 to 400."}])
    assert answer.choices[0].finish_reason == "stop" or answer.usage.completion_tokens > 256


@check("chat", "the bare bot name works")
def _() -> None:
    assert ask(model=BOT.partition("/")[2]).choices[0].message.content


@check("chat", "content may be a list of text parts, and the roles developer and system are taken")
def _() -> None:
    parts = [{"type": "text", "text": "Hello."}, {"type": "text", "text": "Who are you?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert ask(messages=messages).choices[0].message.content


def pieces_of(chunks: list[Any]) -> list[str]:
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


@check("stream", "a stream has several pieces and ends with a reason")
def _() -> None:
    chunks = list(ask(stream=True))
    assert len(pieces_of(chunks)) > 3
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


@check("stream", "the stream helper gathers the answer")
def _() -> None:
    with client.chat.completions.stream(model=BOT, messages=[HELLO], temperature=0) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert {"content.delta", "content.done", "chunk"} <= kinds
    assert answer.choices[0].message.content


@check("stream", "the async client streams")
async def _() -> None:
    async with openai.AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0) as other:
        stream = await other.chat.completions.create(model=BOT, messages=[USER], max_tokens=SHORT, stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]
    assert len(pieces) > 3


@check("usage", "usage comes with an answer and at a stream's end")
def _() -> None:
    usage = ask().usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= SHORT
    *others, last = list(ask(stream=True, stream_options={"include_usage": True}))
    assert last.usage.completion_tokens > 0
    assert not last.choices
    assert not any(chunk.usage for chunk in others)


@check("usage", "continuous_usage_stats counts up with the stream")
def _() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


@check("tools", "a required tool is called with valid arguments")
def _() -> None:
    answer = ask(tools=[WEATHER], **ONE).choices[0]
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert call.id
    GetWeather.model_validate_json(call.function.arguments)
    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content


@check("tools", "a named tool of two is called")
def _() -> None:
    choice = {"type": "function", "function": {"name": "find_order"}}
    answer = ask(tools=[WEATHER, ORDER], tool_choice=choice, max_tokens=128).choices[0]
    assert [call.function.name for call in answer.message.tool_calls] == ["find_order"]


@check("tools", "tool_choice auto answers with text or with a valid call")
def _() -> None:
    message = ask(tools=[WEATHER, ORDER], max_tokens=128).choices[0].message
    assert message.content or message.tool_calls
    for call in message.tool_calls or ():
        assert call.function.name in ("get_weather", "find_order")


@check("tools", "tool_choice none answers with text")
def _() -> None:
    message = ask(tools=[WEATHER], tool_choice="none").choices[0].message
    assert message.content
    assert not message.tool_calls


@check("tools", "a call's arguments are streamed in pieces, and end with finish_reason tool_calls")
def _() -> None:
    chunks = list(ask(tools=[WEATHER], **ONE, stream=True))
    deltas = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function.name == "get_weather"
    assert deltas[0].id
    assert all(delta.index == 0 for delta in deltas)
    GetWeather.model_validate_json("".join(delta.function.arguments or "" for delta in deltas))
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@check("tools", "the stream helper parses a strict tool's arguments")
def _() -> None:
    tool = openai.pydantic_function_tool(GetWeather)
    with client.chat.completions.stream(model=BOT, messages=[USER], tools=[tool], **ONE) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert isinstance(message.tool_calls[0].function.parsed_arguments, GetWeather)


@check("tools", "several calls of one answer have ids of their own and valid arguments")
def _() -> None:
    message = ask(tools=[WEATHER], tool_choice="required", max_tokens=1000).choices[0].message
    assert message.tool_calls
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    for call in message.tool_calls:
        GetWeather.model_validate_json(call.function.arguments)


@check("tools", "parallel_tool_calls false allows one call")
def _() -> None:
    answer = ask(tools=[WEATHER, ORDER], **ONE)
    assert len(answer.choices[0].message.tool_calls) == 1


@check("round trip", "a tool's result in the history is answered with text")
def _() -> None:
    call = ask(tools=[WEATHER], **ONE).choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": '{"sky": "clear"}'}
    answer = ask(tools=[WEATHER], tool_choice="none", messages=[USER, call, result]).choices[0]
    assert answer.message.content


@check("typed", "chat.completions.parse gives a typed result")
def _() -> None:
    answer = client.chat.completions.parse(model=BOT, messages=[USER], response_format=Ticket, max_tokens=128)
    assert isinstance(answer.choices[0].message.parsed, Ticket)


@check("typed", "the bounds of a typed result's numbers are kept, strictly and as a plain schema")
def _() -> None:
    parsed = client.chat.completions.parse(model=BOT, messages=[USER], response_format=Quote, max_tokens=128)
    assert isinstance(parsed.choices[0].message.parsed, Quote)
    schema: Any = {"type": "json_schema", "json_schema": {"name": "quote", "schema": Quote.model_json_schema()}}
    Quote.model_validate_json(ask(response_format=schema, max_tokens=128).choices[0].message.content)


@check("typed", "a typed result is streamed")
def _() -> None:
    with client.chat.completions.stream(model=BOT, messages=[USER], response_format=Ticket, max_tokens=128) as stream:
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Ticket)


@check("typed", "json_object gives an object")
def _() -> None:
    text = "Answer with a small JSON object with the key colour."
    answer = ask(messages=[{"role": "user", "content": text}], response_format={"type": "json_object"}, max_tokens=400)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.lstrip().startswith("{")


@check("reasoning", "thoughts come as reasoning_content, apart from the answer, and are counted")
def _() -> None:
    answer = ask(model=THINKER, temperature=0)
    assert answer.choices[0].message.reasoning_content
    assert "think>" not in (answer.choices[0].message.content or "")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


@check("reasoning", "thoughts are streamed as reasoning_content")
def _() -> None:
    chunks = list(ask(model=THINKER, temperature=0, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert len([delta for delta in deltas if getattr(delta, "reasoning_content", None)]) > 3


@check("reasoning", "enable_thinking false and reasoning_effort none leave thoughts out")
def _() -> None:
    for options in ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, {"reasoning_effort": "none"}):
        message = ask(model=THINKER, temperature=0, **options).choices[0].message
        assert message.content
        assert not getattr(message, "reasoning_content", None)


@check("reasoning", "reasoning_content in the history is taken")
def _() -> None:
    past = {"role": "assistant", "content": "Is it plugged in?", "reasoning_content": "Perhaps it is not plugged in."}
    answer = ask(model=THINKER, messages=[USER, past, {"role": "user", "content": "Yes."}])
    assert answer.choices[0].message.reasoning_content


@check("sampling", "a seed repeats an answer at temperature 1")
def _() -> None:
    first, second = (ask(seed=7, temperature=1).choices[0].message.content for _ in range(2))
    assert first == second


@check("sampling", "at temperature 0 a stream's pieces make the same answer as no stream")
def _() -> None:
    streamed = "".join(pieces_of(list(ask(stream=True, temperature=0))))
    whole = ask(temperature=0).choices[0].message.content
    assert streamed == whole, f"{streamed!r} and {whole!r}"


@check("sampling", "top_k, min_p, repetition_penalty, min_tokens and ignore_eos are taken in extra_body")
def _() -> None:
    extra = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "min_tokens": 2, "ignore_eos": True}
    answer = ask(extra_body=extra, frequency_penalty=0.1, presence_penalty=0.1, top_p=0.9)
    assert answer.usage.completion_tokens == SHORT


@check("sampling", "logit_bias makes a token win")
def _() -> None:
    text = ask(logit_bias={"4000": 100}, max_tokens=4, temperature=0).choices[0].message.content
    assert text == text[: len(text) // 4] * 4


@check("stop", "up to 16 stop sequences end an answer")
def _() -> None:
    whole = ask(temperature=0).choices[0].message.content
    word = whole.split()[3]
    answer = ask(temperature=0, stop=[word, *(f"never{n}" for n in range(15))]).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.content == whole[: whole.index(word)]


@check("n", "n gives several choices, whole and streamed")
def _() -> None:
    answer = ask(n=3, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    chunks = list(ask(n=2, stream=True))
    assert {choice.index for chunk in chunks for choice in chunk.choices if choice.delta.content} == {0, 1}


@check("logprobs", "logprobs with top_logprobs for each token")
def _() -> None:
    answer = ask(logprobs=True, top_logprobs=3, temperature=0, max_tokens=8)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)
    assert "".join(token.token for token in content) == answer.choices[0].message.content


@check("logprobs", "logprobs are streamed")
def _() -> None:
    chunks = list(ask(logprobs=True, top_logprobs=1, max_tokens=8, stream=True))
    assert sum(len(c.choices[0].logprobs.content) for c in chunks if c.choices and c.choices[0].logprobs) > 3


@check("hints", "hints and unknown names are ignored")
def _() -> None:
    hints: Any = {"user": "u", "store": False, "service_tier": "auto", "prompt_cache_key": "k", "verbosity": "low"}
    named = [{"role": "user", "name": "ann", "content": QUESTION}]
    extra = {"safety_identifier": "s", "a_name_of_tomorrow": 1}
    assert ask(messages=named, metadata={"a": "b"}, extra_body=extra, **hints).choices[0].message.content


@check("errors", "a wrong key, an unknown model and a bad value raise OpenAI's exceptions")
def _() -> None:
    with raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with raises(openai.NotFoundError, "acme/nobody"):
        ask(model="acme/nobody")
    with raises(openai.BadRequestError, "temperature"):
        ask(temperature=9)
    with raises(openai.BadRequestError, "n"):
        ask(n=100)


@check("errors", "an image is refused by name")
def _() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with raises(openai.BadRequestError, "image"):
        ask(messages=[{"role": "user", "content": [image]}])


@check("errors", "a tool's wrong name, 500 tools and a recursive schema are refused by name")
def _() -> None:
    tools = [{"type": "function", "function": {"name": f"t{n}"}} for n in range(500)]
    with raises(openai.BadRequestError, "tools"):
        ask(tools=tools)
    with raises(openai.BadRequestError, "tools[0].function.name"):
        ask(tools=[{"type": "function", "function": {"name": "../../x"}}])
    schema = {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}}
    with raises(openai.BadRequestError, "recursive"):
        ask(response_format={"type": "json_schema", "json_schema": {"name": "node", "schema": schema}})


@check("completions", "completions.create continues a text, streamed too")
def _() -> None:
    answer = client.completions.create(model=RAW, prompt="The capital of France is", max_tokens=8, temperature=0)
    assert "Paris" in answer.choices[0].text
    stream = client.completions.create(model=RAW, prompt="One, two, three,", max_tokens=12, stream=True)
    assert len([chunk for chunk in stream if chunk.choices and chunk.choices[0].text]) > 3
    several = ["The capital of France is", "One, two, three,"]
    answer = client.completions.create(model=RAW, prompt=several, max_tokens=8, temperature=0, echo=True)
    assert [choice.text.startswith(prompt) for choice, prompt in zip(answer.choices, several, strict=True)] == [
        True
    ] * 2
    assert "Paris" in answer.choices[0].text


if ENGINE == "sglang":

    @check("scoring", "echo with logprobs scores a prompt")
    def _() -> None:
        answer = client.completions.create(model=RAW, prompt="Rain is wet.", max_tokens=1, echo=True, logprobs=1)
        scores = answer.choices[0].logprobs
        assert answer.choices[0].text.startswith("Rain is wet.")
        assert scores is not None
        assert scores.token_logprobs is not None
        assert len(scores.token_logprobs) > 3
        assert all(score <= 0 for score in scores.token_logprobs[1:])


@check("responses", "responses.create answers, with usage")
def _() -> None:
    answer = client.responses.create(model=BOT, input=QUESTION, instructions="Be brief.", max_output_tokens=SHORT)
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


@check("responses", "a response is streamed as events")
def _() -> None:
    with client.responses.stream(model=BOT, input="Hello", temperature=0) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") > 3
    assert answer.output_text


@check("responses", "a tool is called, and its result is answered")
def _() -> None:
    tool: Any = {"type": "function", "strict": True, **WEATHER["function"]}
    answer = client.responses.create(
        model=BOT, input=QUESTION, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    GetWeather.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "clear"}
    history: Any = [USER, call.model_dump(), result]
    assert client.responses.create(model=BOT, input=history, tools=[tool], tool_choice="none").output_text


@check("responses", "responses.parse gives a typed result")
def _() -> None:
    answer = client.responses.parse(model=BOT, input=QUESTION, text_format=Ticket, max_output_tokens=128)
    assert isinstance(answer.output_parsed, Ticket)


@check("reasoning", "thoughts are reasoning items of a response")
def _() -> None:
    answer = client.responses.create(model=THINKER, input=QUESTION, max_output_tokens=SHORT)
    assert "reasoning" in [item.type for item in answer.output]
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens > 0


run()
