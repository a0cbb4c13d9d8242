"""A call that changes something waits for its visitor's yes, and is made once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from gateway.actions.choice import Decider
from gateway.outcomes import Code, Refused
from gateway.widget import answers
from services.config.schema import BotConfig
from services.store.registry import Registry
from services.store.registry_edit import read_registry, write_registry
from tests.gateway.test_actions import Shop, action

from .conftest import BOT, Page


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The order service, and a model that wants to cancel whatever is named."""

    async def choose(self: Decider, actions: Any, messages: Any) -> Any:
        return actions[0] if "cancel" in messages[-1].text.lower() else None

    monkeypatch.setattr(Decider, "choose", choose)
    Shop.status, Shop.wait_s, Shop.location, Shop.seen = 200, 0.0, "", []
    Shop.body = b'{"summary": "Order 4712 was cancelled."}'
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def give(page: Page, url: str) -> None:
    cancel = action(url, method="POST", asks="Shall I cancel order {order}?")
    tenant, name = BOT.split("/")

    def changed(registry: Registry) -> Registry:
        record = registry.tenants[tenant]
        bot = BotConfig.model_validate(record.config.bots[name].model_dump() | {"actions": {"cancel": cancel}})
        config = record.config.model_copy(update={"bots": {name: bot}})
        fresh = record.model_copy(update={"config": config})
        return registry.model_copy(update={"tenants": {**registry.tenants, tenant: fresh}})

    gateway = page.stage.gateway
    old = await read_registry(gateway.connection)
    new = changed(old).model_copy(update={"version": old.version + 1})
    assert await write_registry(gateway.connection, old.version, new)
    await gateway.directory.reload()


@dataclass
class Question:
    session: str
    id: str


async def ask(page: Page, url: str) -> Question:
    await give(page, url)
    said = await page.say("Please cancel order 4712")
    events = await page.read(said["chat"])
    confirm = events[-1]["data"]["confirm"]
    assert (confirm["action"], confirm["text"]) == ("cancel", "Shall I cancel order 4712?")
    shown = (await page.get(f"sessions/{said['session']}")).json()
    assert shown["confirm"] == confirm
    assert not Shop.seen
    return Question(said["session"], confirm["id"])


async def answer_of(page: Page, asked: Question, *, yes: bool) -> httpx.Response:
    return await page.post("confirmations", {"session": asked.session, "id": asked.id, "yes": yes})


async def test_nothing_is_sent_before_the_yes_and_once_after_it(page: Page, orders: str) -> None:
    asked = await ask(page, orders)
    body = {"session": asked.session, "id": asked.id, "yes": True}
    answer = await page.post("confirmations", body)
    assert answer.status_code == 202, answer.text
    await page.read(answer.json()["chat"])
    assert [(method, path) for method, path, _, _ in Shop.seen] == [("POST", "/orders/4712")]
    again = await page.post("confirmations", body)
    assert again.status_code == 404
    shown = (await page.get(f"sessions/{asked.session}")).json()
    assert shown["confirm"] is None
    assert [turn["text"] for turn in shown["turns"] if turn["who"] == "visitor"] == [
        "Please cancel order 4712",
        "Yes, please.",
    ]
    assert len(Shop.seen) == 1


async def test_after_a_no_nothing_is_sent(page: Page, orders: str) -> None:
    asked = await ask(page, orders)
    answer = await answer_of(page, asked, yes=False)
    assert answer.status_code == 202
    await page.read(answer.json()["chat"])
    assert (
        await page.post("confirmations", {"session": asked.session, "id": asked.id, "yes": True})
    ).status_code == 404
    assert not Shop.seen


async def test_another_message_ends_the_question(page: Page, orders: str) -> None:
    asked = await ask(page, orders)
    said = await page.say("How do I return something?", asked.session)
    events = await page.read(said["chat"])
    assert events[-1]["data"]["confirm"] is None
    assert (
        await page.post("confirmations", {"session": asked.session, "id": asked.id, "yes": True})
    ).status_code == 404
    assert not Shop.seen


async def test_only_the_visitor_who_was_asked_can_say_yes(page: Page, orders: str) -> None:
    asked = await ask(page, orders)
    other = await page.say("Hello")
    await page.read(other["chat"])
    stolen = await page.post("confirmations", {"session": other["session"], "id": asked.id, "yes": True})
    assert stolen.status_code == 404
    assert not Shop.seen


async def test_a_yes_whose_answer_was_refused_is_said_again_and_done_once(
    page: Page, orders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await ask(page, orders)

    async def full(*_: object, **__: object) -> None:
        raise Refused(Code.QUEUE_FULL, "Full.")

    with monkeypatch.context() as patched:
        patched.setattr(answers, "submit", full)
        assert (await answer_of(page, asked, yes=True)).status_code == 429
    again = await answer_of(page, asked, yes=True)
    assert again.status_code == 202, again.text
    await page.read(again.json()["chat"])
    assert len(Shop.seen) == 1
