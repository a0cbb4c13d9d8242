"""Pydantic AI: OpenAIChatModel, OpenAIResponsesModel and AnthropicModel."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest, ToolReturnPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

from tests.clients.checks import BOT, KEY, QUESTION, THINKER, URL, V1, check, raises, run
from tests.clients.scripts.ticket import Quote, Ticket

OPENAI = OpenAIProvider(base_url=V1, api_key=KEY)


def agent(model: Any = None, **options: Any) -> Agent[None, Any]:
    settings = {"model_settings": {"max_tokens": 128, "temperature": 0, "parallel_tool_calls": False}, "retries": 0}
    return Agent(model or OpenAIChatModel(BOT, provider=OPENAI), **(settings | options))


@check("chat", "an agent answers, with usage")
async def _() -> None:
    done = await agent().run(QUESTION)
    assert done.output
    assert done.usage.output_tokens > 0


@check("system", "instructions and a history are taken")
async def _() -> None:
    first = await agent(instructions="Be brief.").run("Hello")
    assert (await agent(instructions="Be brief.").run(QUESTION, message_history=first.all_messages())).output


@check("stream", "run_stream gives several pieces")
async def _() -> None:
    async with agent().run_stream(QUESTION) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 3


@check("typed", "a typed output validates, by a tool and by a native schema")
async def _() -> None:
    for output in (Ticket, ToolOutput(Ticket), NativeOutput(Ticket)):
        assert isinstance((await agent(output_type=output).run(QUESTION)).output, Ticket)


@check("typed", "the bounds of numbers are kept, by a tool and by a native schema, strictly or not")
async def _() -> None:
    for output in (Quote, ToolOutput(Quote), NativeOutput(Quote), NativeOutput(Quote, strict=False)):
        assert isinstance((await agent(output_type=output).run(QUESTION)).output, Quote)


@check("tools", "a tool is offered, with a typed output that the agent must return")
async def _() -> None:
    agent_with_tools = agent(output_type=Ticket)

    @agent_with_tools.tool_plain
    def find_order(number: int) -> str:
        """An order by its number."""
        return f"Order {number} was sent."

    # Either tool may be called first; a small model may go on calling, which the limit ends.
    from pydantic_ai.exceptions import UsageLimitExceeded
    from pydantic_ai.usage import UsageLimits

    try:
        done = await agent_with_tools.run(QUESTION, usage_limits=UsageLimits(request_limit=4))
    except UsageLimitExceeded:
        return
    assert isinstance(done.output, Ticket)


@check("reasoning", "thoughts are thinking parts")
async def _() -> None:
    thinker = OpenAIChatModel(THINKER, provider=OPENAI)
    async with agent(thinker).iter(QUESTION) as going:
        node = going.next_node
        for _ in range(2):
            node = await going.next(node)
            parts = getattr(getattr(node, "model_response", None), "parts", ())
            if parts:
                assert parts[0].part_kind == "thinking"
                return
    raise AssertionError("no response came")


@check("round trip", "a tool that must be called is, and its result is answered with text")
async def _() -> None:
    schema = {"type": "object", "properties": {"number": {"const": 7}}, "required": ["number"]}
    tool = ToolDefinition(name="find_order", parameters_json_schema=schema)
    client = AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0)  # of this event loop
    model = OpenAIChatModel(BOT, provider=OpenAIProvider(openai_client=client))
    asked = ModelRequest.user_text_prompt(QUESTION)
    must = ModelRequestParameters(function_tools=[tool], allow_text_output=False)
    settings: Any = {"max_tokens": 128, "temperature": 0, "parallel_tool_calls": False}
    said = await model_request(model, [asked], model_settings=settings, model_request_parameters=must)
    (call,) = [part for part in said.parts if part.part_kind == "tool-call"]
    assert call.args_as_dict() == {"number": 7}
    returned = ToolReturnPart(tool_name="find_order", content="Order 7 was sent.", tool_call_id=call.tool_call_id)
    done = await agent(model).run(message_history=[asked, said, ModelRequest(parts=[returned])])
    assert done.output


@check("sampling", "a seed repeats an answer; top_k and min_p are taken in extra_body")
async def _() -> None:
    settings: Any = {"max_tokens": 24, "temperature": 1, "top_p": 0.9, "seed": 7, "presence_penalty": 0.1}
    settings["extra_body"] = {"top_k": 20, "min_p": 0.05}
    first, second = [(await agent(model_settings=settings).run(QUESTION)).output for _ in range(2)]
    assert first == second


@check("stop", "stop_sequences end an answer")
async def _() -> None:
    settings: Any = {"max_tokens": 24, "temperature": 0}
    whole = (await agent(model_settings=settings).run(QUESTION)).output
    word = whole.split()[3]
    stopped: Any = settings | {"stop_sequences": [word]}
    assert (await agent(model_settings=stopped).run(QUESTION)).output == whole[: whole.index(word)]


@check("logprobs", "openai_logprobs for each token")
async def _() -> None:
    settings: Any = {"max_tokens": 4, "openai_logprobs": True, "openai_top_logprobs": 2}
    done = await agent(model_settings=settings).run(QUESTION)
    details: Any = done.all_messages()[-1]
    assert len(details.provider_details["logprobs"]) == 4


@check("responses", "OpenAIResponsesModel answers and gives a typed output")
async def _() -> None:
    model = OpenAIResponsesModel(BOT, provider=OPENAI)
    assert (await agent(model).run(QUESTION)).output
    assert isinstance((await agent(model, output_type=Ticket).run(QUESTION)).output, Ticket)


@check("messages", "AnthropicModel answers and gives a typed output")
async def _() -> None:
    model = AnthropicModel(BOT, provider=AnthropicProvider(base_url=URL, api_key=KEY))
    assert (await agent(model).run(QUESTION)).output
    assert isinstance((await agent(model, output_type=Ticket).run(QUESTION)).output, Ticket)


@check("errors", "an unknown model is named")
async def _() -> None:
    with raises(ModelHTTPError, "acme/nobody"):
        await agent(OpenAIChatModel("acme/nobody", provider=OPENAI)).run(QUESTION)


run()
