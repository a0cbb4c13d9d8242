"""The table of parameters: what is followed, ignored, refused, and what clients send at their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from gateway.messages import Message, Part
from gateway.outcomes import Refused
from gateway.parameters import BODY, MESSAGE, PART, STREAM_OPTIONS, Handling, Table
from gateway.request import ChatRequest, StreamOptions, checked_chat

from .conftest import Host

GOOD: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "Hello"}]}
OPEN_WEBUI: dict[str, Any] = {
    "stream": True,
    "chat_id": "0d6a54ff-3a4c-4c10-9a35-6b9f0ab4a3d1",
    "id": "f3b8a6c0",
    "session_id": "sYc1",
    "background_tasks": {"title_generation": True, "tags_generation": True, "follow_up_generation": True},
    "features": {"voice": False, "image_generation": False, "code_interpreter": False, "web_search": False},
    "filter_ids": [],
    "tool_servers": [],
    "variables": {"{{USER_NAME}}": "Jo"},
    "model_item": {"id": "acme/support", "object": "model", "info": {"meta": {}}},
    "stream_options": {"include_usage": True},
}
HINTS: dict[str, Any] = {
    "user": "u" * 600,
    "store": True,
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "skip_special_tokens": True,
    "stream_options": None,
    "tools": None,
}


@pytest.mark.parametrize(
    ("table", "model"), [(BODY, ChatRequest), (MESSAGE, Message), (PART, Part), (STREAM_OPTIONS, StreamOptions)]
)
def test_what_is_mapped_is_what_is_checked(table: Table, model: type[BaseModel]) -> None:
    assert {name for name, row in table.items() if row.handling is Handling.MAPPED} == set(model.model_fields)


async def test_hints_and_unknown_names_are_ignored(host: Host) -> None:
    parts = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
    message = {"role": "user", "content": parts, "name": "Jo", "mood": "glad"}
    unknown = {"foo": 1, "stream_options": {"x": 1}, "stream": True, "y" * 100: {"deep": [[]]}}
    before = _count(host)
    with capture_logs() as logs:
        answer = await host.ask({**HINTS, **unknown, "model": "support", "messages": [message]})
    assert answer.status_code == 200
    logged = [line["names"] for line in logs if line["event"] == "request.unknown_parameters"]
    assert logged == [("foo", "y" * 64, "messages[0].mood", "stream_options.x")]
    assert _count(host) - before == 4
    plain = await host.ask({**GOOD, **HINTS})
    assert plain.status_code == 200
    first, second = host.driver.claims
    assert first.payload.prompt == second.payload.prompt


def _count(host: Host) -> float:
    return host.state.metrics.registry.get_sample_value("bunkhouse_gateway_unknown_parameters_total") or 0.0


async def test_open_webui_at_its_defaults(host: Host) -> None:
    answer = await host.ask({**GOOD, **OPEN_WEBUI})
    assert answer.status_code == 200
    assert host.driver.tickets[0].session == OPEN_WEBUI["chat_id"]
    await host.ask({**GOOD, **OPEN_WEBUI}, **{"x-openwebui-chat-id": "c1"})
    assert host.driver.tickets[1].session == "c1"
    answer = await host.ask({**GOOD, "chat_id": "a chat!"})
    assert answer.status_code == 200
    assert host.driver.tickets[2].session == host.driver.tickets[2].chat


def test_how_an_answer_is_sent_is_not_what_is_asked() -> None:
    assert _chat({**OPEN_WEBUI, "chat_id": "b"}).digest == _chat(HINTS).digest
    assert _chat({"seed": 1}).digest != _chat({"seed": 2}).digest


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row in BODY.items() if row.handling is Handling.HOST])
def test_what_only_the_host_sets(name: str, row: object) -> None:
    with pytest.raises(Refused, match=f"{name} is set by the host"):
        _chat({name: 1})


def test_refused_parameters_may_ask_for_nothing() -> None:
    for name, row in BODY.items():
        for value in row.neutral:
            assert _chat({name: value}).unknown == ()


THOUGHTS: list[tuple[dict[str, Any], bool | None, int | None]] = [
    ({"thinking": {"type": "disabled"}}, False, None),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, True, 2048),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, True, None),
    ({"thinking": {"type": "adaptive", "budget_tokens": "many"}}, None, None),
    ({"reasoning": {"effort": "none"}}, False, None),
    ({"reasoning": {"effort": "low", "exclude": True}}, True, None),
    ({"reasoning": {"effort": "as you like"}}, None, None),
    ({"reasoning": {"enabled": False}}, False, None),
    ({"reasoning": {"max_tokens": 100}}, None, 100),
    ({"reasoning": None, "thinking": True}, None, None),
    ({"thinking": {"type": "enabled"}, "chat_template_kwargs": {"enable_thinking": False}}, False, None),
    ({"reasoning": {"effort": "high"}, "reasoning_effort": "none"}, False, None),
    ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, False, None),
]


@pytest.mark.parametrize(("given", "thinks", "most"), THOUGHTS)
def test_thoughts_in_other_clients_words(given: dict[str, Any], thinks: bool | None, most: int | None) -> None:
    for strict in (False, True):
        request = checked_chat({**GOOD, **given}, strict=strict)
        assert (request.thinks, request.thinking_tokens_max, request.unknown) == (thinks, most, ())


def test_a_budget_of_thoughts_is_a_part_of_the_question() -> None:
    given = {"thinking": {"type": "enabled"}}
    budget = {"thinking": {"type": "enabled", "budget_tokens": 5}}
    assert _chat(given).digest != _chat(budget).digest
    assert _chat({**budget, "foo": 1}).thinking_tokens_max == 5
    assert _chat({**budget, "foo": 1}).unknown == ("foo",)


def _chat(more: Mapping[str, object]) -> ChatRequest:
    return checked_chat({**GOOD, **more})
