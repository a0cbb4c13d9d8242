"""What becomes of a visitor's chat that is refused, or whose submission Redis left unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.state import Gateway
from gateway.widget.router import HANDOVERS_PER_MINUTE_ALL
from services.config.schema import LimitsConfig, TenantConfig
from services.contracts.replies import Finish
from services.store.connection import QueueUnavailable
from services.store.registry_edit import read_registry, with_tenant, write_registry
from services.store.usage_report import day_now, rows
from tests.gateway.driver import until

from .conftest import BOT, Page


async def limit(page: Page, **limits: int) -> None:
    """Give the shop's tenant these limits."""
    await change(page, lambda tenant: tenant.model_copy(update={"limits": LimitsConfig(**limits)}))


async def change_widget(page: Page, **options: object) -> None:
    """Change the shop's widget."""

    def changed(tenant: TenantConfig) -> TenantConfig:
        bot = tenant.bots["shop"]
        assert bot.widget is not None
        shop = bot.model_copy(update={"widget": bot.widget.model_copy(update=options)})
        return tenant.model_copy(update={"bots": {"shop": shop}})

    await change(page, changed)


async def change(page: Page, edit: Callable[[TenantConfig], TenantConfig]) -> None:
    """Edit the shop's tenant as the admin API does, and wait until the gateway knows it."""
    gateway = page.stage.gateway
    old = await read_registry(gateway.connection)
    record = old.tenants["alder-ash"]
    new = with_tenant(old, "alder-ash", record.model_copy(update={"config": edit(record.config)}))
    new = new.model_copy(update={"version": old.version + 1})
    assert await write_registry(gateway.connection, old.version, new)
    await until(lambda: gateway.directory.version == new.version)


async def refusals(gateway: Gateway) -> dict[str, int]:
    """Of the shop's bot today, by reason."""
    today = day_now(gateway.clock())
    found: dict[str, int] = {}
    for row in await rows(gateway.connection, today, today):
        if row.bot == BOT:
            for reason, number in row.refused.items():
                found[reason] = found.get(reason, 0) + number
    return found


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"tokens_per_minute": 300}, "rate_limit_exceeded"),
        ({"tokens_per_month": 300}, "insufficient_quota"),
    ],
)
async def test_a_refused_message_reaches_usage_and_tells_the_visitor_no_figure(
    page: Page, limits: dict[str, int], code: str
) -> None:
    await limit(page, **limits)
    answer = await page.post("messages", {"text": "How do I return something?"})
    assert answer.status_code in (429, 503)
    error = answer.json()["error"]
    assert not any(figure in error["message"] for figure in "0123456789"), "the tenant's numbers are the tenant's"
    assert "limit" not in error["message"]
    assert "quota" not in error["code"]
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert await refusals(page.stage.gateway) == {code: 1}
    outcome = f'outcome="{code}",route="pages",status="{answer.status_code}"'
    assert outcome in page.stage.gateway.metrics.text().decode(), "the operator's metrics name the true reason"


async def test_a_message_whose_submission_was_not_answered_is_cancelled(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = page.stage.gateway
    submit, chats = gateway.submissions.submit, []

    async def unanswered(ticket: Any, *args: Any, **options: Any) -> None:
        await submit(ticket, *args, **options)
        chats.append(ticket.chat)
        raise QueueUnavailable("Redis fell silent")

    monkeypatch.setattr(gateway.submissions, "submit", unanswered)
    answer = await page.post("messages", {"text": "crowd"})
    assert answer.status_code == 503
    monkeypatch.undo()

    async with asyncio.timeout(15):
        while (info := await gateway.submissions.chat(chats[0])) is None or info.state != "done":  # noqa: ASYNC110  (in Redis)
            await asyncio.sleep(0.01)
    assert info.finish is Finish.CANCELLED


async def test_messages_that_are_refused_do_not_count_against_other_visitors(page: Page) -> None:
    await change_widget(page, messages_per_minute_all=3)
    for _ in range(6):
        answer = await page.post("messages", {"text": "x", "session": "n" * 32})
        assert answer.status_code == 404
    assert (await page.post("messages", {"text": "How do I return something?"})).status_code == 202


async def test_handovers_are_bounded_over_all_visitors(page: Page) -> None:
    codes = []
    for number in range(2, 2 + HANDOVERS_PER_MINUTE_ALL + 4):
        transport = httpx.AsyncHTTPTransport(local_address=f"127.0.0.{number}")
        async with httpx.AsyncClient(transport=transport) as http:
            visitor = replace(page, http=http)
            codes.append((await visitor.post("handover", {"contact": "ada@example.com"})).status_code)
    assert codes.count(202) <= HANDOVERS_PER_MINUTE_ALL + 3, "3: the minute may turn meanwhile"
    assert codes[-1] == 429
