"""Handovers by e-mail: what a person reads, how it is sent, and the address by which a reply is known.

    desk@shop.example  <-  mail with Reply-To: replies+SESSIONMAC@shop.example  ->  gateway.desk.mail_replies

The address holds the conversation's session and a MAC, in letters that mail servers do not tell apart by case. Whoever
was sent it may write to the visitor; nobody else knows it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate

import aiosmtplib

from services.config.mail import MailConfig
from services.store.conversations import ConversationTurn

SEND_S_MAX = 15.0  # below handover.IN_HAND_S
TURN_CHARS = 4000
_SPEAKERS = {"visitor": "Visitor", "bot": "Bot", "person": "Person"}
_SESSION_CHARS, _MAC_CHARS = 39, 10
_TAG = re.compile(rf"\+([a-z2-7]{{{_SESSION_CHARS}}})([a-z2-7]{{{_MAC_CHARS}}})@")


class MailFailed(Exception):
    """It was not taken. `final`: trying again cannot help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


def reply_address(replies_to: str, bot: str, session: str, pepper: bytes) -> str:
    """Where the person who gets the mail replies to."""
    name, _, domain = replies_to.partition("@")
    packed = base64.b32encode(base64.urlsafe_b64decode(session)).decode().rstrip("=").lower()
    return f"{name}+{packed}{_mac(bot, session, pepper)}@{domain}"


def replied_to(addresses: str, bots: list[str], pepper: bytes) -> tuple[str, str] | None:
    """The bot and the session whose reply address is among these, or None."""
    for packed, mac in _TAG.findall(addresses.lower()):
        session = base64.urlsafe_b64encode(base64.b32decode(f"{packed}=".upper())).decode()
        for bot in bots:
            if hmac.compare_digest(mac, _mac(bot, session, pepper)):
                return bot, session
    return None


def _mac(bot: str, session: str, pepper: bytes) -> str:
    mac = hmac.new(pepper, f"mail reply to {session} of {bot}".encode(), hashlib.sha256)
    return base64.b32encode(mac.digest()).decode().lower()[:_MAC_CHARS]


def replies_key(pepper: bytes) -> str:
    """The last part of the URL that a mailbox posts replies to."""
    return hmac.new(pepper, b"mail replies", hashlib.sha256).hexdigest()[:32]


def announcement(
    mail: MailConfig,
    to: str,
    delivery: str,
    *,
    bot: str,
    reply_to: str | None,
    at_s: float,
    facts: Mapping[str, str],
    turns: tuple[ConversationTurn, ...],
) -> str:
    """The mail as text. Visitors' words stand in its body alone, where they can start no header."""
    message = EmailMessage()
    message["Subject"] = f"A visitor of {bot} asks for a person"
    message["From"] = Address(f"{bot} (chat)", addr_spec=mail.sender)
    message["To"] = to
    message["Date"] = formatdate(at_s)
    message["Message-ID"] = f"<{delivery}@{mail.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    if reply_to is not None:
        message["Reply-To"] = reply_to
    lines = [f"{label}: {value}" for label, value in facts.items() if value]
    lines += ["", *(f"{_SPEAKERS[turn.who]}: {turn.text[:TURN_CHARS]}" for turn in turns if turn.text), ""]
    if reply_to is not None:
        lines.append(
            "Reply to this mail, and the visitor reads it in the chat. A line with #bot gives the conversation back"
        )
        lines.append("to the bot, a line with #close ends it.")
    message.set_content("\n".join(lines))
    return message.as_string()


async def send(mail: MailConfig, to: str, body: str) -> None:
    """Hand one mail over to the server. Raises MailFailed."""
    server = aiosmtplib.SMTP(
        hostname=mail.host,
        port=mail.port,
        use_tls=mail.security == "tls",
        start_tls=mail.security == "starttls",
        timeout=SEND_S_MAX,
    )
    try:
        await server.connect()
        if mail.username is not None:
            await server.login(mail.username, mail.password() or "")
        await server.sendmail(mail.sender, [to], body.encode("ascii", "replace"))
        await server.quit()
    except aiosmtplib.SMTPRecipientsRefused as error:
        code = error.recipients[0].code
        raise MailFailed(f"{mail.host} refused {to}: {code}", final=code >= 500) from error
    except aiosmtplib.SMTPResponseException as error:
        raise MailFailed(f"{mail.host}: {error.code} {error.message}", final=error.code >= 500) from error
    except (aiosmtplib.SMTPException, OSError) as error:
        raise MailFailed(f"{mail.host}: {type(error).__name__}: {error}") from error
    finally:
        server.close()  # a server that refused a password is not left by the library
