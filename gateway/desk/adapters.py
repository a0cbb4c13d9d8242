"""Where handovers are announced, and what each receiver is sent. The outbox delivers and retries."""

from __future__ import annotations

import orjson

from gateway.widget.sites import webhook_secret
from gateway.widget.webhook import signature
from services.store.conversations import ConversationTurn
from services.store.deliveries import Delivery

SLACK_TURNS = 6
SLACK_CHARS = 600  # of one turn
_SPEAKERS = {"visitor": "Visitor", "bot": "Bot", "person": "Person"}


def headers_of(delivery: Delivery, pepper: bytes, now_s: float) -> dict[str, str]:
    """What a receiver needs besides the body. Slack knows a sender by its URL."""
    if delivery.kind == "slack":
        return {}
    signed = signature(webhook_secret(delivery.bot, pepper), int(now_s), delivery.body.encode())
    return {"x-bunkhouse-signature": signed, "x-bunkhouse-delivery": delivery.id}


def slack_message(bot: str, contact: str, note: str, page: str, turns: tuple[ConversationTurn, ...]) -> str:
    """The JSON of a Slack incoming webhook: who waits, and the last that was said. Visitors' text stays text."""
    lines = [f"*A visitor of {_plain(bot)} asks for a person*"]
    lines += [
        f"{label}: {_plain(value)}" for label, value in (("Contact", contact), ("Note", note), ("Page", page)) if value
    ]
    said = [turn for turn in turns if turn.text][-SLACK_TURNS:]
    lines += [f"> {_SPEAKERS[turn.who]}: {_plain(turn.text[:SLACK_CHARS])}" for turn in said]
    return orjson.dumps({"text": "\n".join(lines), "unfurl_links": False}).decode()


def _plain(text: str) -> str:
    """As Slack wants text escaped; in one line, so that it cannot leave its quotation."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
