"""Handovers reach Slack, and help desks reply by a signed webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from gateway.widget.handover import Outbox
from gateway.widget.sites import WidgetSite, webhook_secret
from gateway.widget.webhook import signature
from services.config.people import PeopleConfig
from services.config.schema import BotConfig, WidgetConfig
from services.store.connection import connect
from services.store.conversations import Conversation, ConversationTurn
from services.store.deliveries import DeliveryStore

from .conftest import BOT, Page
from .test_refusals import change_widget

NOW_S = 1_764_000_000.0


class SlackWebhook(BaseHTTPRequestHandler):
    """Checks what Slack's incoming webhooks check, and answers in their words."""

    taken: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        status, words = self.judged(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(status)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(words)

    def judged(self, body: bytes) -> tuple[int, bytes]:
        if not self.path.startswith("/services/T0/B0/"):
            return 404, b"no_team"
        if self.path != "/services/T0/B0/right":
            return 403, b"invalid_token"
        if self.headers["content-type"] != "application/json":
            return 400, b"invalid_payload"
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError):
            return 400, b"invalid_payload"
        if not text or len(text) > 40_000:
            return 400, b"no_text"
        self.taken.append(text)
        return 200, b"ok"

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def slack() -> Iterator[str]:
    SlackWebhook.taken.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlackWebhook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0"
    server.shutdown()
    thread.join()
    server.server_close()


async def announced(redis_url: str, url: str, text: str) -> list[str]:
    """What was given up, after one handover."""
    widget = WidgetConfig.model_validate({"handover_slack": url})
    site = WidgetSite("bhw-x", "acme", "acme/help", BotConfig(model="m", widget=widget), widget)
    said = ConversationTurn(who="visitor", text=text, at_s=1.0)
    conversation = Conversation(session="s" * 32, bot="acme/help", began_s=1.0, turns=(said,))
    async with connect(redis_url) as connection:
        outbox = Outbox(connection, b"p" * 32, lambda: NOW_S)
        await outbox.put(site, conversation, contact="ada@example.com", note="", page="")
        while await outbox.deliver_next():
            pass
        return [failed.why for failed in await DeliveryStore(connection).failed()]


async def test_slack_is_told_and_what_visitors_write_stays_text(redis_url: str, slack: str) -> None:
    assert await announced(redis_url, f"{slack}/right", "Help <!channel> & <https://evil.example|click>\n*me*") == []
    [text] = SlackWebhook.taken
    assert "Contact: ada@example.com" in text
    assert "> Visitor: Help &lt;!channel&gt; &amp; &lt;https://evil.example|click&gt; *me*" in text


async def test_a_slack_channel_that_is_gone_leaves_the_handover_listed(redis_url: str, slack: str) -> None:
    assert await announced(redis_url, f"{slack}/wrong", "Help") == ["127.0.0.1 answered 403"]


async def test_a_help_desk_replies_by_a_signed_webhook(page: Page) -> None:
    await change_widget(page, handover_webhook=None, handover=PeopleConfig())
    session = (await page.post("messages", {"text": "human please"})).json()["session"]
    gateway = page.stage.gateway
    url = f"{page.stage.url}/widget/v1/handover-replies/{BOT}"
    secret = webhook_secret(BOT, gateway.secrets.pepper)

    async def send(reply: object, *, key: str = secret, age_s: int = 0) -> httpx.Response:
        body = json.dumps(reply).encode()
        signed = signature(key, int(gateway.clock()) - age_s, body)
        return await page.http.post(url, content=body, headers={"x-bunkhouse-signature": signed})

    reply = {"session": session, "text": "It is oak.", "name": "Ada"}
    assert (await send(reply, key="another")).status_code == 401
    assert (await send(reply, age_s=400)).status_code == 401
    assert (await page.http.post(url, json=reply)).status_code == 401
    body = json.dumps(reply).encode()
    signed = {"x-bunkhouse-signature": signature(secret, int(gateway.clock()), body)}
    assert (await page.http.post(url, content=body, headers=signed)).json() == {"state": "person"}
    assert (await page.http.post(url, content=body, headers=signed)).status_code == 400, "it was played again"
    assert (await send({"session": session, "then": "bot"})).json() == {"state": "bot"}
    assert (await send({"session": "x" * 32, "text": "Hi"})).status_code == 404
    assert (await send({"session": session, "text": "x", "unknown": 1})).status_code == 400
    shown = (await page.get(f"sessions/{session}")).json()
    assert [(turn["who"], turn["text"], turn["name"]) for turn in shown["turns"]][1:] == [
        ("person", "It is oak.", "Ada")
    ]
    assert shown["state"] == "bot"
