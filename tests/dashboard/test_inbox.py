"""People read and answer visitors on the dashboard and through the admin API."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import structlog

from gateway.widget.sites import token_of
from services.store.conversations import ConversationStore, ConversationTurn
from tests.gateway.driver import until

from .conftest import Operator

BOT = "alder-ash/shop"
ADMIN = "/admin/v1"


@dataclass
class Talk:
    """A visitor of the shop who waits for a person."""

    operator: Operator
    widget: str
    session: str
    admin: dict[str, str]

    @property
    def path(self) -> str:
        return f"{ADMIN}/conversations/{BOT}/{self.session}"

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        return await self.operator.http.request(method, path, json=body, headers=self.admin | headers)

    async def seen(self) -> dict[str, Any]:
        """As the visitor's page sees it."""
        answer = await self.operator.http.get(
            f"{self.widget}/sessions/{self.session}", headers={"origin": self.operator.stage.url}
        )
        shown: dict[str, Any] = answer.json()
        return shown


@pytest.fixture
async def talk(operator: Operator) -> Talk:
    stage = operator.stage
    admin = {"authorization": f"Bearer {stage.secrets.admin_key}"}
    changed = await operator.http.patch(f"{ADMIN}/bots/{BOT}", json={"widget": {"handover": {}}}, headers=admin)
    assert changed.status_code == 200, changed.text
    widget, own = f"/widget/v1/{token_of(BOT, 1, stage.secrets.pepper)}", {"origin": stage.url}
    async with asyncio.timeout(10):  # the gateway reads a changed registry a moment later
        while not (await operator.http.get(f"{widget}/config", headers=own)).json()["handover"]:  # noqa: ASYNC110  (in Redis)
            await asyncio.sleep(0.02)
    said = await operator.http.post(
        f"{widget}/messages", json={"text": "I want to talk to a human <b>now</b>"}, headers=own
    )
    assert said.json()["state"] == "waiting", said.text
    return Talk(operator, widget, said.json()["session"], admin)


@pytest.fixture
def logged() -> Iterator[Sequence[object]]:
    """Every line that is logged, with its fields."""
    with structlog.testing.capture_logs() as entries:
        yield entries


async def test_a_person_answers_from_the_inbox_and_hands_back(talk: Talk) -> None:
    operator = talk.operator
    await operator.log_in()
    assert 'class="unread"' in (await operator.http.get("/dashboard/parts/inbox-count")).text
    inbox = (await operator.http.get("/dashboard/inbox")).text
    assert f"/dashboard/inbox/{BOT}/{talk.session}" in inbox
    assert "&lt;b&gt;now&lt;/b&gt;" in inbox
    base = f"/dashboard/talks/{BOT}/{talk.session}"
    assert (await operator.post(f"{base}/typing")).status_code == 204
    assert (await talk.seen())["typing"] is True
    own = {"origin": operator.stage.url, "x-csrf-token": await operator.csrf(), "hx-request": "true"}
    text = "木" * 1500
    sent = await operator.http.post(f"{base}/reply", data={"text": text}, headers=own)
    assert text in sent.text
    seen = await talk.seen()
    assert (seen["turns"][-1]["who"], seen["turns"][-1]["text"], seen["turns"][-1]["name"]) == ("person", text, "owner")
    assert (seen["state"], seen["typing"]) == ("person", False)
    assert 'class="unread"' not in (await operator.http.get("/dashboard/parts/inbox-count")).text
    assert "with the bot" in (await operator.post(f"{base}/hand-back")).text
    assert (await talk.seen())["state"] == "bot"
    assert "Nobody is waiting." in (await operator.http.get("/dashboard/parts/inbox")).text
    assert "closed" in (await operator.post(f"{base}/close")).text
    audit = (await talk.ask("GET", f"{ADMIN}/audit")).json()["items"]
    assert {entry["action"] for entry in audit} >= {
        "conversation.reply",
        "conversation.hand-back",
        "conversation.close",
    }
    assert "木" not in json.dumps(audit, ensure_ascii=False)


async def test_conversations_are_searched_filtered_exported_and_deleted(talk: Talk) -> None:
    operator = talk.operator
    store = ConversationStore(operator.stage.connection)
    formula = ConversationTurn(who="visitor", text="=1+1", at_s=operator.stage.gateway.clock(), rating="down")
    await store.change(
        BOT, talk.session, 30, formula.at_s, lambda now: now.with_turns(formula).model_copy(update={"visitor": "v7"})
    )

    async def listed(**query: str) -> list[str]:
        answer = await operator.http.get(f"{ADMIN}/conversations", params=query, headers=talk.admin)
        assert answer.status_code == 200, answer.text
        return [item["session"] for item in answer.json()["items"]]

    there: list[dict[str, str]] = [{"filter": name} for name in ("all", "open", "rated_down", "handed_over")]
    for query in (*there, {"search": "HUMAN"}, {"bot": BOT}):
        assert await listed(**query) == [talk.session], query
    for query in ({"filter": "unanswered"}, {"search": "nothing"}, {"tenant": "globex"}, {"before_s": "5"}):
        assert await listed(**query) == [], query
    await operator.log_in()
    rows = list(csv.DictReader(io.StringIO((await operator.http.get("/dashboard/conversations.csv")).text)))
    assert [row["text"] for row in rows] == ["I want to talk to a human <b>now</b>", "'=1+1"]
    [whole] = (await operator.http.get("/dashboard/conversations.json?filter=rated_down")).json()["items"]
    assert len(whole["said"]) == 2
    assert talk.session in (await operator.http.get("/dashboard/conversations?filter=handed_over")).text
    assert "rated down" in (await operator.http.get(f"/dashboard/conversations/{BOT}/{talk.session}")).text
    gone = await operator.post(f"/dashboard/talks/{BOT}/{talk.session}/delete-visitor")
    assert gone.headers["hx-redirect"] == "/dashboard/conversations"
    assert await listed() == []
    assert (await talk.ask("GET", talk.path)).status_code == 404
    assert (await talk.ask("DELETE", talk.path)).status_code == 404
    audit = (await talk.ask("GET", f"{ADMIN}/audit")).json()["items"]
    assert audit[0]["action"] == "conversation.delete"


async def test_viewers_read_and_do_not_write(talk: Talk) -> None:
    made = await talk.ask("POST", f"{ADMIN}/admins", {"name": "eve", "role": "viewer"})
    eve = {"authorization": f"Bearer {made.json()['key']}"}
    assert (await talk.ask("GET", talk.path, **eve)).status_code == 200
    for method, path, body in (
        ("POST", f"{talk.path}/reply", {"text": "Hello"}),
        ("POST", f"{talk.path}/typing", {"on": True}),
        ("POST", f"{talk.path}/close", None),
        ("DELETE", talk.path, None),
        ("DELETE", f"{ADMIN}/conversations/{BOT}?visitor=x", None),
    ):
        assert (await talk.ask(method, path, body, **eve)).status_code == 403, path
    await talk.operator.log_in(made.json()["key"])
    page = (await talk.operator.http.get(f"/dashboard/inbox/{BOT}/{talk.session}")).text
    assert "I want to talk to a human" in page
    assert "/reply" not in page
    assert (await talk.operator.post(f"/dashboard/talks/{BOT}/{talk.session}/close")).status_code == 403
    assert (await talk.seen())["state"] == "waiting"


async def test_what_visitors_wrote_reaches_no_log(talk: Talk, logged: Sequence[object]) -> None:
    """Not even where the webhook refuses it."""
    origin = {"origin": talk.operator.stage.url}
    webhook = {"widget": {"handover_webhook": "http://127.0.0.1:9/nobody-listens?to=ada.lovelace@example.com"}}
    assert (await talk.ask("PATCH", f"{ADMIN}/bots/{BOT}", webhook)).status_code == 200
    registry = talk.operator.stage.gateway.directory
    await until(lambda: "nobody-listens" in repr(registry.registry.tenants["alder-ash"]), 10)
    said = {"text": "Write to ada.lovelace@example.com or +49 170 1234567", "session": talk.session}
    await talk.operator.http.post(f"{talk.widget}/messages", json=said, headers=origin)
    contact = {"contact": "ada.lovelace@example.com", "note": "Call +49 170 1234567", "session": talk.session}
    assert (await talk.operator.http.post(f"{talk.widget}/handover", json=contact, headers=origin)).status_code == 202
    await talk.ask("POST", f"{talk.path}/reply", {"text": "I call +49 170 1234567"})
    await until(lambda: "widget.handover_failed" in str(logged), 10)
    await talk.ask("DELETE", f"{ADMIN}/conversations/{BOT}?visitor=ada.lovelace@example.com")
    for personal in ("ada.lovelace", "1234567"):
        assert personal not in str(logged)
