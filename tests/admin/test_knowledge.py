"""A bot's knowledge through the admin API."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.admin.conftest import CONFIG, Admin


async def test_an_operator_cannot_make_a_bot_read_the_hosts_files(admin: Admin) -> None:
    bot = {"model": next(iter(CONFIG.models)), "knowledge": {"documents": ["/etc/passwd"]}}
    refused = await admin.refused(400, "PUT", "/bots/acme/reader", bot)
    assert refused["param"] == "knowledge.documents"


async def test_what_is_added_is_found_listed_audited_and_removed(admin: Admin, tmp_path: Path) -> None:
    admin.gateway.knowledge.folder = tmp_path
    await admin.ask("PUT", "/bots/acme/shop", {"model": next(iter(CONFIG.models)), "knowledge": {}})
    path = "/bots/acme/shop/knowledge"
    page = base64.b64encode(b"<h1>Care</h1><p>Use linseed oil on boards.</p>").decode()
    made = await admin.ask(
        "POST", f"{path}/documents", {"name": "care.html", "base64": page, "url": "https://a.example/c"}
    )
    pair = await admin.ask("POST", f"{path}/faq", {"question": "Can I call you?", "answer": "Until 17:00."})
    assert made["passages"] == pair["passages"] == 1
    assert {each["id"] for each in (await admin.ask("GET", path))["items"]} == {made["id"], pair["id"]}
    await admin.gateway.directory.reload()
    await admin.gateway.knowledge.look()
    hits = (await admin.ask("GET", f"{path}/search", q="Which oil for boards?"))["items"]
    assert hits[0]["text"] == "Use linseed oil on boards."
    assert hits[0]["known"] is True
    assert hits[0]["url"] == "https://a.example/c"
    audit = (await admin.ask("GET", "/audit"))["items"]
    assert [entry["action"] for entry in audit[:2]] == ["knowledge.add", "knowledge.add"]
    await admin.ask("DELETE", f"{path}/{made['id']}")
    assert [each["id"] for each in (await admin.ask("GET", path))["items"]] == [pair["id"]]
    await admin.refused(404, "DELETE", f"{path}/{made['id']}")


async def test_a_bot_of_the_same_name_does_not_inherit_knowledge(admin: Admin) -> None:
    bot = {"model": next(iter(CONFIG.models)), "knowledge": {}}
    await admin.ask("PUT", "/bots/acme/shop", bot)
    await admin.ask("POST", "/bots/acme/shop/knowledge/faq", {"question": "Q?", "answer": "A."})
    await admin.ask("DELETE", "/bots/acme/shop")
    await admin.ask("PUT", "/bots/acme/shop", bot)
    assert (await admin.ask("GET", "/bots/acme/shop/knowledge"))["items"] == []


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"name": "a.pdf", "text": "no PDF"}, "name"),
        ({"name": "a.exe", "text": "x"}, "name"),
        ({"name": "a.md"}, "text"),
        ({"name": "a.md", "base64": "!"}, "base64"),
        ({"name": "a.md", "text": "x", "url": "javascript:alert(1)"}, "url"),
    ],
)
async def test_a_document_that_cannot_be_used_is_refused(admin: Admin, document: dict[str, str], param: str) -> None:
    await admin.ask("PUT", "/bots/acme/shop", {"model": next(iter(CONFIG.models)), "knowledge": {}})
    refused = await admin.refused(400, "POST", "/bots/acme/shop/knowledge/documents", document)
    assert refused["param"] == param


async def test_a_bot_without_knowledge_takes_none(admin: Admin) -> None:
    await admin.ask("PUT", "/bots/acme/plain", {"model": next(iter(CONFIG.models))})
    refused = await admin.refused(409, "POST", "/bots/acme/plain/knowledge/faq", {"question": "Q?", "answer": "A."})
    assert refused["code"] == "no_knowledge"
