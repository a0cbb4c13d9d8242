"""Handovers leave by a real SMTP server, and replies by e-mail reach the widget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from gateway.desk.mail import MailFailed, replied_to, replies_key, reply_address, send
from gateway.widget.handover import Outbox
from gateway.widget.sites import WidgetSite
from services.config.mail import MailConfig
from services.config.people import PeopleConfig
from services.config.schema import BotConfig, ConfigError, WidgetConfig, load
from services.process.ports import free_port
from services.store.connection import connect
from services.store.conversations import Conversation, ConversationTurn
from services.store.deliveries import DeliveryStore

from .conftest import BOT, Page
from .test_refusals import change_widget

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # it is on this machine

NOW_S = 1_764_000_000.0
PEPPER = b"p" * 32
SESSION = "AbCd-_12" * 4


class Mailbox:
    """Takes mail for every address but `nobody@...`; asks for a password."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_RCPT(  # noqa: N802  (aiosmtpd's name)
        self, _server: object, _session: object, envelope: Any, address: str, _options: object
    ) -> str:
        if address.startswith("nobody@"):
            return "550 no such user"
        if address.startswith("busy@"):
            return "451 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
        found = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(found, EmailMessage)
        self.mails.append(found)
        return "250 taken"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), free_port()

    def login(_server: object, _session: object, _envelope: object, _how: str, data: object) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"chat", b"secret")
        return AuthResult(success=right, handled=False)

    running = Controller(
        box, hostname="127.0.0.1", port=port, authenticator=login, auth_required=True, auth_require_tls=False
    )
    running.start()
    yield box, port
    running.stop()


def config(folder: Path, port: int, password: str = "secret") -> MailConfig:
    secret = folder / "password"
    secret.write_text(f"{password}\n")
    values = {"host": "127.0.0.1", "port": port, "security": "none", "username": "chat", "password_file": secret}
    return MailConfig.model_validate({**values, "sender": "chat@shop.example", "replies_to": "replies@shop.example"})


async def announced(redis_url: str, mail: MailConfig | None, to: str, text: str = "Help") -> tuple[list[str], int]:
    """Why deliveries were given up after one handover, and how many wait for another try."""
    widget = WidgetConfig.model_validate({"handover_email": to})
    site = WidgetSite("bhw-x", "acme", "acme/help", BotConfig(model="m", widget=widget), widget)
    said = ConversationTurn(who="visitor", text=text, at_s=1.0)
    conversation = Conversation(session=SESSION, bot="acme/help", began_s=1.0, turns=(said,))
    async with connect(redis_url) as connection:
        outbox = Outbox(connection, PEPPER, lambda: NOW_S, mail=mail)
        await outbox.put(site, conversation, contact="ada@example.com\nBcc: x@evil.example", note="", page="")
        while await outbox.deliver_next():
            pass
        store = DeliveryStore(connection)
        waiting = await store.take(NOW_S + 3600, 1.0)
        return [failed.why for failed in await store.failed()], int(waiting is not None)


async def test_a_person_reads_who_waits_and_what_was_said(
    redis_url: str, mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    box, port = mailbox
    assert await announced(redis_url, config(tmp_path, port), "desk@shop.example", "椅子は？\nBcc: y@evil.example") == (
        [],
        0,
    )
    [mail] = box.mails
    assert mail["To"] == "desk@shop.example"
    assert mail["Bcc"] is None, "what visitors write starts no header"
    assert mail["Subject"] == "A visitor of acme/help asks for a person"
    body = mail.get_content()
    assert "Visitor: 椅子は？" in body
    assert "Contact: ada@example.com" in body
    assert replied_to(mail["Reply-To"], ["acme/other", "acme/help"], PEPPER) == ("acme/help", SESSION)


async def test_what_the_server_refuses_for_good_is_kept_and_the_rest_is_tried_again(
    redis_url: str, mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    _, port = mailbox
    assert await announced(redis_url, config(tmp_path, port), "busy@shop.example") == ([], 1)
    given_up, _ = await announced(redis_url, config(tmp_path, port), "nobody@shop.example")
    assert given_up == ["127.0.0.1 refused nobody@shop.example: 550"]


async def test_a_wrong_password_and_a_server_that_is_down_are_named(
    mailbox: tuple[Mailbox, int], tmp_path: Path
) -> None:
    _, port = mailbox
    with pytest.raises(MailFailed, match="535"):
        await send(config(tmp_path, port, "wrong"), "desk@shop.example", "Subject: x\n\nx")
    with pytest.raises(MailFailed, match=r"127\.0\.0\.1") as failed:
        await send(config(tmp_path, 9), "desk@shop.example", "Subject: x\n\nx")
    assert not failed.value.final


def test_a_reply_address_holds_in_any_case_and_for_its_bot_alone() -> None:
    address = reply_address("replies@shop.example", "acme/help", SESSION, PEPPER)
    assert len(address.partition("@")[0]) <= 64
    assert replied_to(f"<{address.upper()}>", ["acme/help"], PEPPER) == ("acme/help", SESSION)
    assert replied_to(address, ["acme/other"], PEPPER) is None
    assert replied_to(address, ["acme/help"], b"q" * 32) is None
    assert replied_to("replies@shop.example", ["acme/help"], PEPPER) is None


class Replies:
    """A conversation that waits, and a mailbox that posts what comes."""

    def __init__(self, page: Page, session: str) -> None:
        self.page, self.session = page, session
        pepper = page.stage.gateway.secrets.pepper
        self.url = f"{page.stage.url}/widget/v1/mail-replies/{replies_key(pepper)}"
        self.address = reply_address("replies@shop.example", BOT, session, pepper)

    def mail(self, text: str, **headers: str) -> EmailMessage:
        message = EmailMessage()
        for name, value in {"From": "Ada <ada@shop.example>", "To": self.address, **headers}.items():
            message[name.replace("_", "-")] = value
        message.set_content(text)
        return message

    async def post(self, content: bytes, kind: str, url: str = "") -> httpx.Response:
        return await self.page.http.post(url or self.url, content=content, headers={"content-type": kind})

    async def take(self, message: EmailMessage) -> dict[str, Any]:
        answer = await self.post(bytes(message), "message/rfc822")
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def shown(self) -> list[tuple[str, str, str]]:
        turns = (await self.page.get(f"sessions/{self.session}")).json()["turns"]
        return [(turn["who"], turn["text"], turn["name"]) for turn in turns][1:]


@pytest.fixture
async def replies(page: Page) -> Replies:
    await change_widget(page, handover_webhook=None, handover=PeopleConfig())
    session = (await page.post("messages", {"text": "human please"})).json()["session"]
    return Replies(page, session)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (
            "It is oak.\n\nOn Mon, 1 Dec 2025 at 10:00, Shop (chat) <chat@shop.example> wrote:\n> Visitor: Oak?\n",
            "It is oak.",
        ),
        ("Ja, Eiche.\n\nAm 01.12.2025 um 10:00 schrieb Shop <chat@shop.example>:\n\n> Ist das Eiche?\n", "Ja, Eiche."),
        ("Two lines\nof an answer.", "Two lines\nof an answer."),
    ],
)
async def test_a_reply_appears_in_the_widget_without_what_it_quotes(replies: Replies, written: str, read: str) -> None:
    assert await replies.take(replies.mail(written)) == {"state": "person", "shown": True}
    assert await replies.shown() == [("person", read, "Ada")]


async def test_every_form_that_providers_send(replies: Replies) -> None:
    raw = [bytes(replies.mail(f"Answer {number}.")) for number in range(4)]
    form = httpx.Request("POST", "http://x", files={"email": (None, raw[0]), "from": (None, b"ada")})
    sent = [
        await replies.post(form.read(), form.headers["content-type"]),
        await replies.post(urlencode({"body-mime": raw[1]}).encode(), "application/x-www-form-urlencoded"),
        await replies.post(json.dumps({"RawEmail": raw[2].decode()}).encode(), "application/json"),
    ]
    html = replies.mail("")
    html.set_content("<p>Answer <b>3</b>.</p><div class=gmail_quote>Visitor: hello</div>", subtype="html")
    sent.append(await replies.post(bytes(html), "message/rfc822"))
    assert [answer.status_code for answer in sent] == [202] * 4, [answer.text for answer in sent]
    texts = [" ".join(text.split()) for _, text, _ in await replies.shown()]
    assert [text.replace(" .", ".") for text in texts] == [f"Answer {number}." for number in range(4)]


async def test_commands_automatic_answers_and_repeats(replies: Replies) -> None:
    absent = replies.mail("I am away until Monday.", Auto_Submitted="auto-replied")
    assert (await replies.take(absent))["shown"] is False
    once = replies.mail("It is oak.", Message_ID="<1@shop.example>")
    assert (await replies.take(once))["shown"] is True
    assert (await replies.take(once))["shown"] is False
    assert await replies.take(replies.mail("Bye!\n#close\n")) == {"state": "closed", "shown": True}
    assert await replies.take(replies.mail("#bot")) == {"state": "bot", "shown": True}
    assert [text for _, text, _ in await replies.shown()] == ["It is oak.", "Bye!"]


async def test_mail_that_is_nobodys_is_refused(replies: Replies) -> None:
    stranger = EmailMessage()
    stranger["To"] = "replies@shop.example"
    stranger.set_content("Hi")
    assert (await replies.post(bytes(stranger), "message/rfc822")).status_code == 404
    assert (await replies.post(bytes(replies.mail("Hi")), "message/rfc822", f"{replies.url}0")).status_code == 401
    for body, kind in (
        (b"{}", "application/json"),
        (b"{", "application/json"),
        (b"a=1", "text/plain"),
        (b"", "message/rfc822"),
    ):
        answer = await replies.post(body, kind)
        assert answer.status_code == 400, kind
    assert "RawEmail" in (await replies.post(b"{}", "application/json")).text
    assert await replies.shown() == []


@pytest.mark.parametrize(
    ("mail", "words"),
    [
        ("", "there is no `mail` section"),
        ("mail: {host: smtp.example, sender: a@b.example, security: none}", "in the clear"),
        ("mail: {host: smtp.example, sender: a@b.example, username: x}", "go together"),
        ("mail: {host: smtp.example, sender: Ada}", "no e-mail address"),
        ("mail: {host: smtp.example, sender: a@b.example, replies_to: customer-replies@b.example}", "12 characters"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, mail: str, words: str) -> None:
    file = tmp_path / "host.yaml"
    bot = "{model: m, widget: {handover_email: desk@shop.example}}"
    file.write_text(
        f"models: {{m: {{engine: llamacpp, weights: w}}}}\ntenants: {{acme: {{bots: {{help: {bot}}}}}}}\n{mail}\n"
    )
    with pytest.raises(ConfigError, match=words):
        load(file, {})
