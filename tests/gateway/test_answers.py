"""Answers that are more than text, as the unmodified openai client reads them: thoughts, tool calls, logprobs."""

from __future__ import annotations

from typing import Any

import orjson
from openai.types.chat import ChatCompletionChunk

from services.contracts.replies import ContentKind, Finish, ToolCallDelta
from services.worker.parsers.base import Parsed

from .conftest import ACME, Host
from .driver import Script

HELLO: Any = [{"role": "user", "content": "Hello there"}]
CITY = {"city": "Köln\u2028"}  # JSON text may hold a line separator that Python splits at


def _logprobs(*tokens: str) -> str:
    items = [{"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []} for token in tokens]
    return orjson.dumps(items).decode()


def _call(*deltas: ToolCallDelta) -> Parsed:
    lines = b"".join(
        orjson.dumps(
            {"index": delta.index} | {k: getattr(delta, k) for k in ("id", "name", "arguments") if getattr(delta, k)}
        )
        + b"\n"
        for delta in deltas
    )
    return Parsed(ContentKind.TOOL_CALL, lines.decode(), 1, "<raw>")


ARGUMENTS = orjson.dumps(CITY).decode()
RICH = Script(
    pieces=[
        Parsed(ContentKind.REASONING, "Let me ", 1),
        Parsed(ContentKind.REASONING, "think.", 1, "think.</think>"),
        Parsed(ContentKind.CONTENT, "I", 1, logprobs=_logprobs("I")),
        Parsed(ContentKind.CONTENT, "", 1, logprobs=_logprobs("\ufffd")),
        Parsed(ContentKind.CONTENT, " look.", 2, logprobs=_logprobs(" look", ".")),
        _call(ToolCallDelta(0, id="call_1", name="weather"), ToolCallDelta(0, arguments=ARGUMENTS[:5])),
        _call(ToolCallDelta(0, arguments=ARGUMENTS[5:]), ToolCallDelta(1, id="call_2", name="time")),
        _call(ToolCallDelta(1, arguments="{}")),
    ],
    finish=Finish.TOOL_CALLS,
)


async def test_a_whole_answer_has_thoughts_calls_and_logprobs_apart(host: Host) -> None:
    host.driver.script_for = lambda _: RICH
    answer = await host.client().chat.completions.create(model="support", messages=HELLO)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert choice.message.model_extra == {"reasoning_content": "Let me think."}
    calls: Any = choice.message.tool_calls
    assert [(call.id, call.type, call.function.name, orjson.loads(call.function.arguments)) for call in calls] == [
        ("call_1", "function", "weather", CITY),
        ("call_2", "function", "time", {}),
    ]
    assert choice.logprobs is not None
    assert [item.token for item in choice.logprobs.content or ()] == ["I", "\ufffd", " look", "."]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    shown = await host.http.get(f"{host.url}/v1/chats/{answer.id}", headers={"authorization": f"Bearer {ACME}"})
    assert shown.json()["completion"]["choices"] == answer.model_dump(exclude_unset=True)["choices"]
    assert shown.json()["finish"] == "tool_calls"


async def test_a_call_without_words_has_null_content(host: Host) -> None:
    host.driver.script_for = lambda _: Script(pieces=RICH.pieces[5:], finish=Finish.TOOL_CALLS)
    answer = await host.client().chat.completions.create(model="support", messages=HELLO)
    assert answer.choices[0].message.content is None
    assert len(answer.choices[0].message.tool_calls or ()) == 2


async def test_a_stream_has_one_event_an_entry(host: Host) -> None:
    host.driver.script_for = lambda _: RICH
    stream = await host.client().chat.completions.create(model="support", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert len(chunks) == 1 + len(RICH.pieces) + 1  # the role first, the finish last
    assert "".join(_extra(delta).get("reasoning_content", "") for delta in deltas) == "Let me think."
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    tokens = [item.token for chunk in chunks if (found := chunk.choices[0].logprobs) for item in found.content or ()]
    assert tokens == ["I", "\ufffd", " look", "."]
    assert _accumulated(chunks) == {0: ("call_1", "weather", ARGUMENTS), 1: ("call_2", "time", "{}")}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_resumed_stream_goes_on_with_its_thoughts_calls_and_logprobs(host: Host) -> None:
    host.driver.script_for = lambda _: RICH
    whole = await host.ask({"model": "support", "messages": HELLO, "stream": True}, **{"x-bunkhouse-resume": "1"})
    events = whole.text.split("\n\n")
    url = f"{host.url}/v1/chats/{whole.headers['x-bunkhouse-chat']}/stream"
    for place, event in enumerate(events):
        if event.startswith("id: "):
            after = {"authorization": f"Bearer {ACME}", "last-event-id": event.partition("\n")[0].removeprefix("id: ")}
            assert (await host.http.get(url, headers=after)).text.split("\n\n") == events[place + 1 :]


async def test_continuous_usage_counts_the_tokens_up_to_each_event(host: Host) -> None:
    host.driver.script_for = lambda _: RICH
    body = {"model": "support", "messages": HELLO, "stream": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await host.ask({**body, "stream_options": options})
    events = [orjson.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == [0, 1, 2, 3, 4, 6, 7, 8, 9, 9, len(RICH.pieces)]  # the last is the settled usage
    assert all(event["usage"]["prompt_tokens"] == host.driver.tickets[0].prompt_tokens for event in events)


def _extra(delta: Any) -> dict[str, str]:
    return delta.model_extra or {}


def _accumulated(chunks: list[ChatCompletionChunk]) -> dict[int, tuple[str, str, str]]:
    """Calls as a client puts them together: by index, ids and names once, arguments one after another."""
    calls: dict[int, tuple[str, str, str]] = {}
    for chunk in chunks:
        for part in chunk.choices[0].delta.tool_calls or ():
            identity, name, arguments = calls.get(part.index, ("", "", ""))
            assert part.function is not None
            calls[part.index] = (
                identity + (part.id or ""),
                name + (part.function.name or ""),
                arguments + (part.function.arguments or ""),
            )
    return calls


async def test_a_resumed_stream_has_its_own_logprobs(host: Host) -> None:
    """From every place on: the same events, whose logprobs stay beside their tokens."""
    host.driver.script_for = lambda _: RICH
    body = {"model": "support", "messages": HELLO, "stream": True, "logprobs": True, "top_logprobs": 2}
    answer = await host.ask(body, **{"x-bunkhouse-resume": "1"})
    events = answer.text.split("\n\n")
    chat = orjson.loads(events[0].rpartition("data: ")[2])["id"]
    assert sum('"logprobs":{' in event for event in events) == 3
    for number, event in enumerate(events):
        if event.startswith("id: "):
            after = event.partition("\n")[0].removeprefix("id: ")
            rest = await host.http.get(
                f"{host.url}/v1/chats/{chat}/stream",
                headers={"authorization": f"Bearer {ACME}", "last-event-id": after},
            )
            assert rest.text.split("\n\n") == events[number + 1 :]
