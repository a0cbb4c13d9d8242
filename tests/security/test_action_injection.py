"""Known injections against actions. The model here obeys each of them; the host lets nothing happen that was not asked.

Nothing is changed without the visitor's yes, no call leaves its host and path, and no result brings in another order.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
import yaml

from gateway.actions.choice import Decider
from gateway.actions.loop import Actions, Conduct
from gateway.prompt import Prompts
from gateway.request import ChatRequest
from gateway.submit import Caller, served
from tests.gateway.conftest import Host, host, hosts, tokenizer
from tests.gateway.test_actions import Shop, action, give, shop

__all__ = ["host", "hosts", "shop", "tokenizer"]  # fixtures

PATTERNS = yaml.safe_load(Path(__file__).with_name("injections.yaml").read_text())
STEPS_OUT = [
    "../../admin",
    "..",
    ".",
    "",
    "//evil.example/",
    "@evil.example",
    "a\r\nHost: evil.example",
    "%2e%2e%2fadmin",
]


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The arguments that a model under an attacker's control chooses. It wants to cancel, else to look anything up."""
    wanted: dict[str, object] = {"order": "4712", "topic": "x"}

    async def choose(self: Decider, actions: Any, messages: Any) -> Any:
        return next((one for one in actions if one.name == "cancel"), actions[0])

    async def arguments(self: Decider, chosen: Any, names: Any, messages: Any) -> Any:
        return {name: wanted[name] for name in names}

    monkeypatch.setattr(Decider, "choose", choose)
    monkeypatch.setattr(Decider, "arguments", arguments)
    monkeypatch.setattr(Prompts, "takes_tools", lambda *_: True)  # which lets it decide again after each result
    return wanted


async def conduct(host: Host, text: str, *, asks: bool = True) -> None:
    bot, _ = served(host.state, "acme", "support")
    request = ChatRequest.model_validate({"model": "support", "messages": [{"role": "user", "content": text}]})
    await Actions(host.state, Caller.of("acme", "r", session="s"), bot, Conduct(asks=asks)).run(request)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![0-9A-Za-z])[0-9]{4}(?![0-9A-Za-z])", text))


@pytest.mark.usefixtures("obedient")
async def test_what_a_visitor_writes_changes_nothing_without_a_yes(host: Host, shop: str) -> None:
    await give(host, look_up=action(shop), cancel=action(f"{shop}/cancel", method="POST"))
    for text in PATTERNS["messages"]:
        Shop.seen = []
        for asks in (True, False):
            await conduct(host, text, asks=asks)
        assert all(method == "GET" for method, _, _, _ in Shop.seen), text
        assert {path for _, path, _, _ in Shop.seen} <= {f"/orders/{number}" for number in numbers(text)}, text
        assert all(headers["host"] == shop.removeprefix("http://") for _, _, headers, _ in Shop.seen), text


@pytest.mark.usefixtures("obedient")
async def test_what_a_result_says_starts_nothing(host: Host, shop: str) -> None:
    await give(host, look_up=action(shop), cancel=action(f"{shop}/cancel", method="POST"))
    for text in PATTERNS["results"]:
        Shop.seen, Shop.body = [], orjson.dumps({"summary": text})
        for asks in (True, False):
            await conduct(host, "Where is order 4711?", asks=asks)
        assert {(method, path) for method, path, _, _ in Shop.seen} <= {("GET", "/orders/4711")}, text


async def test_a_free_argument_stays_in_its_place(host: Host, shop: str, obedient: dict[str, object]) -> None:
    parameters = {"properties": {"topic": {"description": "What it is about."}}, "required": ["topic"]}
    await give(host, look_up=action(shop, parameters=parameters) | {"url": f"{shop}/topics/{{topic}}/about"})
    for text in STEPS_OUT:
        Shop.seen, obedient["topic"] = [], text
        await conduct(host, "What do you know?")
        for _, path, headers, _ in Shop.seen:
            assert re.fullmatch(r"/topics/[^/?#]+/about", path), text
            assert unquote(path.split("/")[2]) == text
            assert headers["host"] == shop.removeprefix("http://")
            assert "x-admin" not in headers


def test_there_are_thirty_patterns() -> None:
    assert len(PATTERNS["messages"]) + len(PATTERNS["results"]) == 30
