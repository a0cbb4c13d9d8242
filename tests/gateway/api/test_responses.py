"""The Responses API, asked by the unmodified openai client."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import orjson
import pytest

from services.contracts.replies import Finish, ReplyError
from tests.gateway.conftest import ACME, Host
from tests.gateway.driver import Script
from tests.gateway.test_bad_input import error_of

from .scripts import CALL_ID, THINKS, calling, thinking

ASKED: Any = {"model": "support", "input": "Weather in Oslo?"}


async def post(host: Host, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {ACME}"}
    return await host.http.post(f"{host.url}/v1/responses", headers=headers, json={**ASKED, **body})


async def test_a_whole_response(host: Host) -> None:
    host.driver.script_for = lambda _: thinking()
    answer = await host.client().responses.create(**ASKED, instructions="Be brief.", metadata={"task": "facts"})
    assert answer.output_text == "It is rain."
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].to_dict()["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    assert (answer.status, answer.model, answer.instructions) == ("completed", "acme/support", "Be brief.")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 4
    assert answer.usage.output_tokens_details.reasoning_tokens == 2
    assert answer.usage.input_tokens_details.cached_tokens == 2
    assert answer.usage.total_tokens == host.driver.tickets[0].prompt_tokens + 4
    assert host.driver.tickets[0].task == "facts"


async def test_a_streamed_response(host: Host) -> None:
    host.driver.script_for = lambda _: thinking()
    async with host.client().responses.stream(**ASKED) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "It is rain."
    names: list[str] = [event.type for event in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    for name, times in (
        ("response.output_item.added", 2),
        ("response.content_part.added", 2),
        ("response.reasoning_text.delta", 2),
        ("response.reasoning_text.done", 1),
        ("response.output_text.delta", 2),
        ("response.output_text.done", 1),
        ("response.content_part.done", 2),
        ("response.output_item.done", 2),
    ):
        assert names.count(name) == times, name
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.id == "resp_" + host.driver.tickets[0].chat.removeprefix("chatcmpl-")


async def test_thoughts_as_a_summary(host: Host) -> None:
    host.driver.script_for = lambda _: thinking()
    async with host.client().responses.stream(**ASKED, reasoning={"summary": "auto"}) as stream:
        names: list[str] = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert names.count("response.reasoning_summary_text.delta") == 2
    assert "response.reasoning_summary_part.added" in names
    assert final.output[0].to_dict()["summary"] == [{"type": "summary_text", "text": "Let me think."}]


async def test_a_stream_and_the_whole_are_the_same(host: Host) -> None:
    host.driver.script_for = lambda _: calling()
    whole = (await post(host)).json()
    events = [line for line in (await post(host, stream=True)).text.splitlines() if line.startswith("data: ")]
    streamed = orjson.loads(events[-1].removeprefix("data: "))["response"]
    ids = [host.driver.tickets[turn].chat.removeprefix("chatcmpl-") for turn in range(2)]
    for response in (whole, streamed):
        del response["bunkhouse"], response["created_at"]
    assert orjson.dumps(whole).decode().replace(ids[0], ids[1]) == orjson.dumps(streamed).decode()


async def test_tool_calls(host: Host) -> None:
    host.driver.script_for = lambda _: calling()
    async with host.client().responses.stream(**ASKED) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert deltas == ['{"city":', '"Oslo"}', "{}"]
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    first = final.output[2]
    assert first.type == "function_call"
    assert (first.call_id, first.name, first.arguments) == (CALL_ID, "weather", '{"city":"Oslo"}')
    assert first.status == final.status == "completed"


async def test_a_response_that_was_cut(host: Host) -> None:
    host.driver.script_for = lambda _: Script(THINKS, finish=Finish.LENGTH)
    answer = await host.client().responses.create(**ASKED, max_output_tokens=4)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[-1].to_dict()["status"] == "incomplete"
    assert host.driver.tickets[0].max_tokens == 4
    async with host.client().responses.stream(**ASKED) as stream:
        names: list[str] = [event.type async for event in stream]
    assert names[-1] == "response.incomplete"


async def test_a_response_that_fails_on_its_way(host: Host) -> None:
    host.driver.script_for = lambda _: Script(THINKS, error=ReplyError("engine_failed", "The engine fell over."))
    text = (await post(host, stream=True)).text
    assert text.index("event: error") < text.index("event: response.failed")
    failed = orjson.loads(text.rpartition("data: ")[2])["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "engine_failed")
    assert failed["output"][-1]["content"][0]["text"] == "It is rain."
    async with host.client().responses.stream(**ASKED) as stream:
        with pytest.raises(openai.APIError, match="fell over"):
            await stream.until_done()
    with pytest.raises(openai.InternalServerError):
        await host.client().responses.create(**ASKED)


async def test_a_refused_response(host: Host) -> None:
    error_of(await post(host, previous_response_id="resp_1"), 400, "unsupported_parameter", "previous_response_id")
    error_of(await post(host, messages=[]), 400, "unsupported_parameter", "messages")
    error_of(await post(host, model="nothing"), 404, "model_not_found", "model")
    error_of(await post(host, cache_salt="x"), 400, "unsupported_parameter", "cache_salt")
    answer = await host.http.get(f"{host.url}/v1/responses/resp_1", headers={"authorization": f"Bearer {ACME}"})
    error_of(answer, 404, "not_found")


async def test_the_same_key_gives_the_same_response(host: Host) -> None:
    client = host.client()
    asked = {**ASKED, "extra_headers": {"Idempotency-Key": "k"}}
    first, second = await client.responses.create(**asked), await client.responses.create(**asked)
    assert (first.id, first.output_text) == (second.id, second.output_text)
    assert len(host.driver.tickets) == 1
