"""A bot's knowledge through the admin API."""

from __future__ import annotations

from tests.admin.conftest import CONFIG, Admin


async def test_an_operator_cannot_make_a_bot_read_the_hosts_files(admin: Admin) -> None:
    bot = {"model": next(iter(CONFIG.models)), "knowledge": {"documents": ["/etc/passwd"]}}
    refused = await admin.refused(400, "PUT", "/bots/acme/reader", bot)
    assert refused["param"] == "knowledge.documents"
