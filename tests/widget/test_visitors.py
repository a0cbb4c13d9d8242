"""Visitors whom the shop vouches for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from gateway.outcomes import Refused
from gateway.widget.visitors import KEEP_S_MAX, verified, visitor_secret
from services.store.conversations import ConversationStore

from .conftest import BOT, Page

NOW_S = 1_800_000_000.0
SECRET = "s3cret"


def signed(claims: dict[str, Any], secret: str = SECRET, **header: str) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"} | header, claims)]
    head = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    mac = hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest()
    return f"{head}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def test_a_token_of_the_shop_names_its_visitor() -> None:
    visitor = verified(signed({"sub": "c-17", "name": "Zoë 山田", "exp": NOW_S + 60, "iat": NOW_S}), SECRET, NOW_S)
    assert (visitor.sub, visitor.name) == ("c-17", "Zoë 山田")


GOOD = {"sub": "c-17", "exp": NOW_S + 60}


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (signed(GOOD, "another"), "not signed"),
        (signed(GOOD, alg="none"), "HS256"),
        (signed(GOOD, alg="RS256"), "HS256"),
        (signed(GOOD).rpartition(".")[0] + ".", "not signed"),
        (signed(GOOD | {"exp": NOW_S}), "exp"),
        (signed(GOOD | {"exp": NOW_S + KEEP_S_MAX + 1}), "exp"),
        (signed(GOOD | {"exp": float("nan")}), "exp"),
        (signed({"sub": "c-17"}), "exp"),
        (signed({"exp": NOW_S + 60}), "sub"),
        (signed(GOOD | {"sub": ""}), "sub"),
        (signed(GOOD | {"sub": 17}), "sub"),
        (signed(GOOD | {"name": "n" * 101}), "name"),
        ("", "not a JSON Web Token"),
        ("a.b", "not a JSON Web Token"),
        ("ä.ö.ü", "not a JSON Web Token"),
        ("!.!.!", "not a JSON Web Token"),
    ],
)
def test_any_other_token_is_refused(token: str, why: str) -> None:
    with pytest.raises(Refused) as refused:
        verified(token, SECRET, NOW_S)
    assert why in refused.value.message
    assert refused.value.param == "visitor"


async def test_a_conversation_belongs_to_its_visitor(page: Page) -> None:
    secret = visitor_secret(BOT, page.stage.secrets.pepper)
    until_s = page.stage.gateway.clock() + 600

    def named(sub: str, name: str) -> str:
        return signed({"sub": sub, "name": name, "exp": until_s}, secret)

    body = {"text": "How do I return something?", "visitor": named("c-17", "Ada"), "language": "de"}
    asked = (await page.post("messages", body)).json()
    talk = await ConversationStore(page.stage.connection).read(BOT, asked["session"])
    assert talk is not None
    assert (talk.visitor, talk.visitor_name, talk.language) == ("c-17", "Ada", "de")
    await page.read(asked["chat"])
    again = {"text": "And now?", "session": asked["session"]}
    for other in ({}, {"visitor": named("c-18", "Eve")}):
        assert (await page.post("messages", again | other)).status_code == 404
    forged = await page.post("messages", again | {"visitor": signed({"sub": "c-17", "exp": until_s})})
    assert forged.status_code == 400
    assert forged.json()["error"]["param"] == "visitor"
