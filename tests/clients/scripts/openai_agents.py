"""openai-agents: agents on the Responses API, its default, and on chat completions."""

from __future__ import annotations

from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

from tests.clients.checks import BOT, KEY, QUESTION, THINKER, V1, check, run
from tests.clients.scripts.ticket import Ticket

set_tracing_disabled(True)
KINDS = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}


@function_tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Today's weather in a city."""
    return f"It is sunny in {city}."


def agent(kind: str, tokens: int = 600, choice: str | None = None, **options: Any) -> Agent:
    model = KINDS[kind](model=BOT, openai_client=AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0))
    settings = ModelSettings(max_tokens=tokens, temperature=0, tool_choice=choice, parallel_tool_calls=False)
    return Agent(name="support", instructions="Be brief.", model=model, model_settings=settings, **options)


async def _answers(kind: str) -> None:
    done = await Runner.run(agent(kind), "Hello")
    assert done.final_output
    assert done.context_wrapper.usage.output_tokens > 0


async def _streams(kind: str) -> None:
    running = Runner.run_streamed(agent(kind), "Hello")
    events = [event async for event in running.stream_events()]
    deltas = [e for e in events if e.type == "raw_response_event" and e.data.type == "response.output_text.delta"]
    assert len(deltas) > 3


async def _gives_a_type(kind: str) -> None:
    assert isinstance((await Runner.run(agent(kind, output_type=Ticket), QUESTION)).final_output, Ticket)


async def _goes_round(kind: str) -> None:
    """The agent's loop: the tool is called, its result goes back, and an answer ends it."""
    done = await Runner.run(agent(kind, choice="required", tools=[get_weather]), QUESTION, max_turns=5)
    assert "tool_call_item" in [item.type for item in done.new_items]
    assert any("sunny" in str(item.output) for item in done.new_items if item.type == "tool_call_output_item")
    assert done.final_output


async def _stops_on_tool(kind: str) -> None:
    on_first = agent(kind, choice="get_weather", tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    assert "sunny" in (await Runner.run(on_first, QUESTION)).final_output


@check("chat", "an agent on chat completions answers")
async def _() -> None:
    await _answers("chat")


@check("stream", "an agent on chat completions streams")
async def _() -> None:
    await _streams("chat")


@check("tools", "an agent on chat completions calls a named tool")
async def _() -> None:
    await _stops_on_tool("chat")


@check("round trip", "an agent on chat completions answers from a tool's result")
async def _() -> None:
    await _goes_round("chat")


@check("typed", "an agent on chat completions gives a typed output")
async def _() -> None:
    await _gives_a_type("chat")


@check("reasoning", "thoughts are reasoning items, on both APIs")
async def _() -> None:
    for kind, model in KINDS.items():
        thinker = agent(kind, tokens=24)
        thinker.model = model(model=THINKER, openai_client=AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0))
        async for event in Runner.run_streamed(thinker, "Hello", max_turns=1).stream_events():
            if event.type == "raw_response_event" and "reasoning" in event.data.type:
                break
        else:
            raise AssertionError(f"{kind}: no thoughts came")


@check("sampling", "top_p, penalties and extra_body are taken")
async def _() -> None:
    other = agent("chat", tokens=24)
    other.model_settings = ModelSettings(
        max_tokens=24, temperature=1, top_p=0.9, presence_penalty=0.1, extra_body={"seed": 7, "top_k": 20}
    )
    first, second = [(await Runner.run(other, QUESTION)).final_output for _ in range(2)]
    assert first == second


@check("responses", "an agent on the Responses API answers")
async def _() -> None:
    await _answers("responses")


@check("responses", "an agent on the Responses API streams")
async def _() -> None:
    await _streams("responses")


@check("responses", "an agent on the Responses API calls a named tool")
async def _() -> None:
    await _stops_on_tool("responses")


@check("responses", "an agent on the Responses API answers from a tool's result")
async def _() -> None:
    await _goes_round("responses")


@check("responses", "an agent on the Responses API gives a typed output")
async def _() -> None:
    await _gives_a_type("responses")


run()
