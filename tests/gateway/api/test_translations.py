"""Requests of other APIs, as their official clients send them, and the chats that they become."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api import anthropic_request, responses_request
from gateway.outcomes import Refused

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def response_chat(**body: Any) -> dict[str, Any]:
    return responses_request.parsed({"model": "support", "input": "Hi", **body}).chat()


def message_chat(**body: Any) -> dict[str, Any]:
    given = {"model": "support", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}], **body}
    return anthropic_request.parsed(given).chat()


def refused_param(function: Any, **body: Any) -> str | None:
    with pytest.raises(Refused) as caught:
        function(**body)
    assert caught.value.param is None or caught.value.param in caught.value.message
    return caught.value.param


def test_a_plain_response() -> None:
    assert response_chat() == {"model": "support", "messages": [{"role": "user", "content": "Hi"}]}
    asked = response_chat(instructions="Be brief.", max_output_tokens=9, temperature=0.5, stream=True, store=True)
    assert asked == {
        "model": "support",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "store": True,
    }


def test_a_conversation_of_items() -> None:
    """As openai-agents sends an earlier answer's items back."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Ask."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "sun"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "Tell."}]},
        {"type": "message", "role": "assistant", "content": "Rain."},
        {"type": "message", "role": "developer", "content": "Be kind."},
    ]
    second = {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert response_chat(input=items)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me see."}],
            "reasoning_content": "Ask.",
            "tool_calls": [CALL, second],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": "sun"},
        {"role": "assistant", "content": "Rain.", "reasoning_content": "Tell."},
        {"role": "developer", "content": "Be kind."},
    ]


def test_tools_and_formats_of_a_response() -> None:
    tool = {"type": "function", "name": "weather", "description": "Now", "parameters": SCHEMA, "strict": True}
    function = {"name": "weather", "description": "Now", "parameters": SCHEMA, "strict": True}
    asked = response_chat(tools=[tool], tool_choice={"type": "function", "name": "weather"}, parallel_tool_calls=False)
    assert asked["tools"] == [{"type": "function", "function": function}]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert asked["parallel_tool_calls"] is False
    other = {"type": "function", "name": "other"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [other]}
    asked = response_chat(tools=[tool, other], tool_choice=allowed)
    assert (asked["tools"], asked["tool_choice"]) == ([{"type": "function", "function": {"name": "other"}}], "required")
    asked = response_chat(text={"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}})
    schema = {"name": "place", "schema": SCHEMA, "strict": True}
    assert asked["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert response_chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in response_chat(text={"format": {"type": "text"}, "verbosity": "low"})
    asked = response_chat(
        reasoning={"effort": "low", "summary": "auto"}, include=[responses_request.LOGPROBS], top_logprobs=2
    )
    assert (asked["reasoning_effort"], asked["logprobs"], asked["top_logprobs"]) == ("low", True, 2)


def test_what_a_response_is_refused_for() -> None:
    for name, value in (("previous_response_id", "resp_1"), ("conversation", "c"), ("background", True)):
        assert refused_param(response_chat, **{name: value}) == name
    assert response_chat(previous_response_id=None, background=False, n=1)
    for name in ("messages", "max_tokens", "response_format"):
        assert refused_param(response_chat, **{name: [1]}) == name
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}
    assert refused_param(response_chat, input=[image]) == "input[0].content[0].type"
    assert refused_param(response_chat, input=[{"type": "item_reference", "id": "x"}]) == "input[0].type"
    assert refused_param(response_chat, input=[{"type": "function_call", "name": "f"}]) == "input[0].call_id"
    assert refused_param(response_chat, tools=[{"type": "web_search"}]) == "tools[0].type"
    assert refused_param(response_chat, max_output_tokens=0) == "max_output_tokens"
    assert refused_param(response_chat, input=None) == "input"


def test_a_plain_message() -> None:
    assert message_chat() == {"model": "support", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64}
    asked = message_chat(
        system=[
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "!"},
        ],
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        top_k=5,
        stream=True,
    )
    assert asked["messages"][0] == {"role": "system", "content": "Be brief.\n\n!"}
    assert (asked["stop"], asked["user"], asked["top_k"], asked["stream"]) == (["END"], "u", 5, True)
    assert "metadata" not in asked


def test_a_conversation_of_blocks() -> None:
    """As Claude Code sends an earlier answer's blocks back."""
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Ask.", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    assert message_chat(messages=messages)["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me see."}],
            "reasoning_content": "Ask.",
            "tool_calls": [CALL],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ]
    failed = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "is_error": True}]}
    last = message_chat(messages=[*messages[:2], failed])["messages"][-1]
    assert last == {"role": "tool", "tool_call_id": "call_1", "content": "error"}


def test_tools_and_formats_of_a_message() -> None:
    tool = {"name": "weather", "description": "Now", "input_schema": SCHEMA}
    for given, chosen in (
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ):
        asked = message_chat(tools=[tool], tool_choice={**given, "disable_parallel_tool_use": True})
        assert (asked["tool_choice"], asked["parallel_tool_calls"]) == (chosen, False)
    function = {"name": "weather", "description": "Now", "parameters": SCHEMA}
    assert asked["tools"] == [{"type": "function", "function": function}]
    asked = message_chat(output_config={"effort": "max", "format": {"type": "json_schema", "schema": SCHEMA}})
    assert asked["reasoning_effort"] == "max"
    assert asked["response_format"]["json_schema"]["schema"] == SCHEMA
    for kind, thinks in (("enabled", True), ("disabled", False)):
        asked = message_chat(thinking={"type": kind, "budget_tokens": 1024}, max_tokens=2048)
        assert asked["chat_template_kwargs"] == {"enable_thinking": thinks}
    assert "chat_template_kwargs" not in message_chat(thinking={"type": "adaptive"})


def test_what_a_message_is_refused_for() -> None:
    assert refused_param(message_chat, max_tokens=None) == "max_tokens"
    for name in ("stop", "max_completion_tokens", "input"):
        assert refused_param(message_chat, **{name: "x"}) == name
    for block, where in (
        ({"type": "image", "source": {}}, "messages[0].content[0].type"),
        ({"type": "document", "source": {}}, "messages[0].content[0].type"),
        ({"type": "tool_use"}, "messages[0].content[0].type"),
        ({"type": "text"}, "messages[0].content[0].text"),
        (
            {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image"}]},
            "messages[0].content[0].content[0].type",
        ),
    ):
        assert refused_param(message_chat, messages=[{"role": "user", "content": [block]}]) == where
    assert refused_param(message_chat, tools=[{"type": "bash_20250124", "name": "bash"}]) == "tools[0].type"
    beginning = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I"}]
    assert refused_param(message_chat, messages=beginning) == "messages"
