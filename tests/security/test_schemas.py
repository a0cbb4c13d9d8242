"""Schemas and tools on a real engine: answers match them, and the largest that are allowed hold nobody up."""

from __future__ import annotations

import time
from typing import Any

import jsonschema_rs
import orjson
import pytest

from tests.security.conftest import Hosted

SLOW_S = 30.0  # on a machine that does other things; the schemas alone take below a second
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}
VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["ok", "stars"],
    "additionalProperties": False,
}
LARGE: list[dict[str, Any]] = [
    {"type": "object", "properties": {f"p{n}": {"type": "object"} for n in range(64)}},
    {"enum": [f"value number {n} of many" for n in range(1000)]},
    {"type": "string", "maxLength": 512},
    {"anyOf": [{"properties": {"kind": {"const": n}, "v": {}}, "required": ["kind"]} for n in range(400)]},
    {"properties": {f"p{n}": {"type": "integer", "minimum": -n, "maximum": 10**9 + n} for n in range(60)}},
    {"anyOf": [{"type": "number", "exclusiveMinimum": n + 0.123456, "maximum": 10**6 + n / 7} for n in range(200)]},
    {"anyOf": [{"type": "number", "multipleOf": 900 + n, "minimum": 0.5, "maximum": 10**6} for n in range(10)]},
    {"type": "number", "multipleOf": 9999, "exclusiveMaximum": 10**9},
]


def test_a_call_that_must_be_made(hosted: Hosted) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = hosted.ask("acme", "How is it in Bonn?", tools=[WEATHER], tool_choice=choice, max_tokens=60)
        choice_made = answer.json()["choices"][0]
        assert choice_made["finish_reason"] == "tool_calls", answer.text
        call = choice_made["message"]["tool_calls"][0]
        assert call["function"]["name"] == "weather"
        assert jsonschema_rs.is_valid(WEATHER["function"]["parameters"], orjson.loads(call["function"]["arguments"])), (
            call
        )


def test_an_answer_that_matches_a_schema(hosted: Hosted) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    answer = hosted.ask("acme", "Was it good?", response_format=form, max_tokens=60)
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop", answer.text
    assert jsonschema_rs.is_valid(VERDICT, orjson.loads(choice["message"]["content"])), choice
    answer = hosted.ask("acme", "Was it good?", response_format={"type": "json_object"}, max_tokens=2)
    assert answer.json()["choices"][0]["message"]["content"].lstrip().startswith("{")


def test_a_model_without_tools_may_call_some_or_answer(hosted: Hosted) -> None:
    answer = hosted.ask("acme", "Say hello.", tools=[WEATHER], max_tokens=80)
    choice = answer.json()["choices"][0]
    assert choice["message"].get("tool_calls") or choice["message"]["content"], answer.text
    assert "response" not in (choice["message"]["content"] or "")[:12]


@pytest.mark.parametrize("schema", LARGE)
def test_the_largest_schemas_hold_nobody_up(hosted: Hosted, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    began_s = time.monotonic()
    answer = hosted.ask("acme", "Go on.", response_format=form, max_tokens=2)
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began_s < SLOW_S
