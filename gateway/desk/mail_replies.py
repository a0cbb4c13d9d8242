"""Replies by e-mail: whatever takes a mailbox's mail posts each message here.

    POST /widget/v1/mail-replies/{key} -> 202 {state}

The body is a message as it came (`message/rfc822`: a mail server's pipe), or what providers send: a form with the whole
message in `email` (SendGrid, "send raw") or `body-mime` (Mailgun), JSON with it in `RawEmail` (Postmark). What the
person quoted is cut off. Automatic answers, such as those of absent people, are taken and not shown.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import parseaddr
from urllib.parse import parse_qs

import orjson
from fastapi import APIRouter, Request
from mailparser_reply import EmailReplyParser
from pydantic import BaseModel
from selectolax.lexbor import LexborHTMLParser

from gateway.desk.mail import replied_to, replies_key
from gateway.desk.people import moved, replied
from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from gateway.widget.sites import WidgetSites
from services.store.conversations import Conversation, ConversationState, ConversationStore

REPLY_CHARS_MAX = 4000
ONCE_S = 7 * 86_400  # a message that is posted again within it is not shown twice
LANGUAGES = ["en", "de", "fr", "es", "it", "ja", "ko", "zh", "nl", "pl", "sv", "da"]
COMMANDS: dict[str, ConversationState] = {"#bot": "bot", "#close": "closed"}
FIELDS = ("email", "body-mime")
FIELDS_MAX = 100
RECIPIENTS = ("to", "cc", "delivered-to", "x-original-to", "x-envelope-to")
NAME_CHARS_MAX = 60
_QUOTED = re.compile(r"^>.*$", re.MULTILINE)


class MailTaken(BaseModel):
    """The state of the conversation, and whether the visitor sees a new turn or state."""

    state: ConversationState
    shown: bool


def message_in(content_type: str, body: bytes) -> EmailMessage:
    """The mail of a request. Raises Refused, which names the field that is missing."""
    kind = content_type.partition(";")[0].strip().lower()
    raw: bytes | None = None
    if kind == "message/rfc822":
        raw = body
    elif kind == "application/json":
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Refused(Code.INVALID_VALUE, f"The body is no JSON: {error}.") from error
        text = found.get("RawEmail") if isinstance(found, dict) else None
        raw = text.encode() if isinstance(text, str) else None
    elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        fields = _form(content_type, body)
        raw = next((fields[name] for name in FIELDS if name in fields), None)
    if not raw:
        wanted = "message/rfc822, a form with `email` or `body-mime`, or JSON with `RawEmail`"
        raise Refused(Code.INVALID_VALUE, f"There is no whole message in this {kind or 'body'}; send {wanted}.")
    return _parsed(raw)


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    if not content_type.lower().startswith("multipart/"):
        return {name.decode(): values[0] for name, values in parse_qs(body, max_num_fields=FIELDS_MAX).items()}
    form = _parsed(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    found = {}
    for part in form.iter_parts():
        name, payload = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            found[name] = payload
    return found


def _parsed(raw: bytes) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(raw)


def is_automatic(message: EmailMessage) -> bool:
    """Whether no person wrote it (RFC 3834)."""
    said = str(message.get("auto-submitted", "no")).partition(";")[0].strip().lower()
    return said != "no" or str(message.get("precedence", "")).lower() in ("bulk", "junk", "auto_reply")


def reply_in(message: EmailMessage) -> tuple[str, ConversationState]:
    """What the person wrote above what they quoted, and who has the conversation after it."""
    part = message.get_body(preferencelist=("plain", "html"))
    text = str(part.get_content()) if part is not None else ""
    if part is not None and part.get_content_type() == "text/html":
        tree = LexborHTMLParser(text)
        for quoted in tree.css("blockquote, .gmail_quote, style, script"):
            quoted.decompose()
        text = tree.text(separator="\n") if tree.body is None else tree.body.text(separator="\n")
    text = _QUOTED.sub("", EmailReplyParser(languages=LANGUAGES).parse_reply(text=text) or "").strip()
    lines = text.splitlines()
    words = (line.strip().lower() for line in lines)
    then: ConversationState = next((COMMANDS[word] for word in words if word in COMMANDS), "person")
    said = "\n".join(line for line in lines if line.strip().lower() not in COMMANDS).strip()
    return said[:REPLY_CHARS_MAX], then


def add(routes: APIRouter, gateway: Gateway, store: ConversationStore, sites: Callable[[], WidgetSites]) -> None:
    """Add the route."""

    @routes.post("/widget/v1/mail-replies/{key}", status_code=202)
    async def take(request: Request, key: str) -> MailTaken:
        """A mail that came to the mailbox of replies."""
        pepper = gateway.secrets.pepper
        if not hmac.compare_digest(key.encode(), replies_key(pepper).encode()):
            raise Refused(Code.INVALID_API_KEY, "The last part of this URL is not this host's key of mail replies.")
        message = message_in(request.headers.get("content-type", ""), await request.body())
        widgets = {site.bot: site.widget for site in sites().all()}
        addresses = " ".join(str(value) for name in RECIPIENTS for value in message.get_all(name, []))
        found = replied_to(addresses, list(widgets), pepper)
        if found is None:
            raise Refused(Code.NOT_FOUND, "No conversation's reply address is among this mail's receivers.")
        bot, session = found
        text, then = reply_in(message)
        author, now_s = parseaddr(str(message.get("from", "")))[0][:NAME_CHARS_MAX], gateway.clock()
        shown = not is_automatic(message) and bool(text or then != "person")
        shown = shown and await store.first_time(f"mail {message.get('message-id') or text}", ONCE_S)

        def answered(now: Conversation) -> Conversation:
            if not shown:
                return now
            return moved(replied(now, text, author, now_s) if text else now, then)

        done = await store.change(bot, session, widgets[bot].keep_days, now_s, answered)
        if done is None:
            raise Refused(Code.NOT_FOUND, "This conversation does not exist, or it has expired.")
        return MailTaken(state=done.state, shown=shown)
