"""Pydantic AI: OpenAIChatModel, OpenAIResponsesModel and AnthropicModel."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

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
