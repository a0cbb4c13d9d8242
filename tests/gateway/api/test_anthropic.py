"""Anthropic's Messages API, asked by the unmodified anthropic client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from services.contracts.replies import Finish, ReplyError
from tests.gateway.conftest import ACME, Host
from tests.gateway.driver import Script

from .scripts import CALL_ID, THINKS, call, calling, thinking

HELLO: Any = [{"role": "user", "content": "Weather in Oslo?"}]
ASKED: Any = {"model": "support", "messages": HELLO, "max_tokens": 64}


@pytest.fixture
async def claude(host: Host) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=host.url, api_key=ACME, max_retries=0) as client:
        yield client


async def test_a_whole_message(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    host.driver.script_for = lambda _: thinking()
    message = await claude.messages.create(
        **ASKED, system="Be brief.", stop_sequences=["END"], extra_body={"temperature": 0.5}
    )
    thoughts, text = message.content
    assert thoughts.type == "thinking"
    assert thoughts.thinking == "Let me think."
    assert text.type == "text"
    assert text.text == "It is rain."
    assert "citations" not in text.to_dict()  # the AI SDK takes a list only, and no null
    assert (message.role, message.model, message.stop_reason) == ("assistant", "acme/support", "end_turn")
    ticket = host.driver.tickets[0]
    used = message.usage
    assert used.input_tokens + (used.cache_read_input_tokens or 0) == ticket.prompt_tokens
    assert (used.cache_read_input_tokens, used.output_tokens) == (2, 4)
    assert ticket.max_tokens == 64
    sampling = host.driver.claims[0].payload.sampling
    assert (list(sampling.stop), sampling.temperature) == (["END"], 0.5)


async def test_a_streamed_message(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    host.driver.script_for = lambda _: thinking()
    async with claude.messages.stream(**ASKED) as stream:
        names = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[1].to_dict()["text"] == "It is rain."
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("content_block_start") == names.count("content_block_stop") == 2
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 4)
    assert final.usage.input_tokens == host.driver.tickets[0].prompt_tokens - 2


async def test_the_stop_sequence_that_ended_the_message_is_named(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    host.driver.script_for = lambda _: Script(("One", " two"), stop_text="END")
    asked: Any = {**ASKED, "stop_sequences": ["###", "END"]}
    whole = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


async def test_a_budget_bounds_the_thoughts(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    asked: Any = {**ASKED, "max_tokens": 1_200}
    cases: list[tuple[Any, int | None]] = [
        ({"type": "enabled", "budget_tokens": 1_024}, 1_024),
        ({"type": "disabled"}, None),
        ({"type": "adaptive"}, None),
    ]
    for thinking_, bound in cases:
        await claude.messages.create(**asked, thinking=thinking_)
        assert host.driver.claims[-1].payload.output.thinking_tokens_max == bound
    with pytest.raises(anthropic.BadRequestError, match="1024"):
        await claude.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1_023})
    with pytest.raises(anthropic.BadRequestError, match="less than max_tokens, which is 1200"):
        await claude.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 1_200})


async def test_events_as_bytes(host: Host) -> None:
    headers = {"x-api-key": ACME, "anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    answer = await host.http.post(f"{host.url}/v1/messages?beta=true", headers=headers, json={**ASKED, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in answer.text.strip().split("\n\n")]
    names = [first.removeprefix("event: ") for first, _ in events]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert all(f'"type":"{name}"' in data for name, (_, data) in zip(names, events, strict=True))


async def test_tool_use(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    host.driver.script_for = lambda _: calling()
    whole = await claude.messages.create(**ASKED)
    async with claude.messages.stream(**ASKED) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
        used = message.content[2].to_dict()
        assert (used["id"], used["name"], used["input"]) == (CALL_ID, "weather", {"city": "Oslo"})


async def test_arguments_that_are_not_json(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    broken = Script((call(0, id=CALL_ID, name="weather", arguments='{"city":'),), finish=Finish.LENGTH)
    host.driver.script_for = lambda _: broken
    message = await claude.messages.create(**ASKED)
    assert message.content[0].to_dict()["input"] == {"arguments": '{"city":'}
    assert message.stop_reason == "max_tokens"


async def test_counted_tokens_are_those_of_the_message(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(model="support", messages=HELLO, system="Be brief.")
    await claude.messages.create(**ASKED, system="Be brief.")
    assert counted.input_tokens == host.driver.tickets[0].prompt_tokens


async def test_max_tokens_is_cut_to_the_context(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    await claude.messages.create(model="tiny", messages=HELLO, max_tokens=8_000)
    ticket = host.driver.tickets[0]
    assert ticket.prompt_tokens + ticket.max_tokens == 128


async def test_errors_in_anthropics_shape(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x"}}]}]
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\].type: 'image'") as caught:
        await claude.messages.create(model="support", messages=image, max_tokens=4)
    assert caught.value.body == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": caught.value.body["error"]["message"],  # type: ignore[index]
            "code": "unsupported_parameter",
            "param": "messages[0].content[0].type",
        },
    }
    with pytest.raises(anthropic.NotFoundError):
        await claude.messages.create(model="nothing", messages=HELLO, max_tokens=4)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await claude.messages.create(**ASKED, extra_body={"max_tokens": None})
    with pytest.raises(anthropic.AuthenticationError):
        await claude.with_options(api_key="x").messages.create(**ASKED)
    async with anthropic.AsyncAnthropic(base_url=host.url, auth_token=ACME, max_retries=0) as bearer:
        assert (await bearer.messages.create(**ASKED)).content


async def test_a_message_that_fails_on_its_way(host: Host, claude: anthropic.AsyncAnthropic) -> None:
    host.driver.script_for = lambda _: Script(THINKS, error=ReplyError("engine_failed", "The engine fell over."))
    async with claude.messages.stream(**ASKED) as stream:
        with pytest.raises(anthropic.APIStatusError, match="fell over"):
            await stream.until_done()
    with pytest.raises(anthropic.InternalServerError):
        await claude.messages.create(**ASKED)


async def test_bots_as_models(claude: anthropic.AsyncAnthropic) -> None:
    listed = await claude.models.list()
    assert [model.id async for model in listed][:2] == ["acme/support", "acme/tiny"]
    assert (await claude.models.retrieve("support")).display_name == "acme/support"
