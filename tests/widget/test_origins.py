"""Pages that may use a widget, and pages that may not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from gateway.outcomes import Refused
from gateway.widget import origins
from gateway.widget.sites import WidgetSite, WidgetSites, token_of
from services.config.schema import BotConfig, TenantConfig, WidgetConfig
from services.store.registry import Registry, TenantRecord

from .conftest import BOT, Page

PEPPER = b"p" * 32
WIDGET = WidgetConfig(allowed_origins=("https://shop.example",))


def place_of(widget: WidgetConfig) -> WidgetSite:
    bot = BotConfig(model="m", widget=widget)
    registry = Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig(bots={"help": bot}))})
    found = WidgetSites(registry, PEPPER).site(token_of("acme/help", widget.token_number, PEPPER))
    assert found is not None
    return found


def test_a_listed_origin_is_allowed_by_name_only() -> None:
    named = {"origin": "https://shop.example"}
    origins.check(place_of(WIDGET), named, writes=True)
    assert origins.allow(origins.allowed(place_of(WIDGET), named)) == {
        "vary": "origin",
        "access-control-allow-origin": "https://shop.example",
        "access-control-expose-headers": "retry-after",
    }


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example.evil.com",
        "https://evil.com",
        "http://shop.example",
        "https://shop.example:8443",
        "null",
        "",
        "https://sub.shop.example",
    ],
)
def test_other_origins_are_not(origin: str) -> None:
    with pytest.raises(Refused):
        origins.check(place_of(WIDGET), {"origin": origin, "host": "gateway.example"}, writes=True)
    assert origins.allowed(place_of(WIDGET), {"origin": origin, "host": "gateway.example"}) is None


def test_the_hosts_own_page_needs_demo() -> None:
    own = {"origin": "https://gateway.example", "host": "gateway.example"}
    with pytest.raises(Refused):
        origins.check(place_of(WIDGET), own, writes=True)
    demo = place_of(WIDGET.model_copy(update={"demo": True}))
    origins.check(demo, own, writes=True)
    assert origins.allowed(demo, own) == "https://gateway.example"


def test_a_write_without_an_origin_is_refused_and_a_read_only_from_the_own_page() -> None:
    place = place_of(WIDGET)
    with pytest.raises(Refused):
        origins.check(place, {}, writes=True)
    with pytest.raises(Refused):
        origins.check(place, {"sec-fetch-site": "cross-site"}, writes=False)
    origins.check(place, {"sec-fetch-site": "same-origin"}, writes=False)


def test_a_higher_token_number_ends_the_old_token() -> None:
    assert token_of("acme/help", 1, PEPPER) != token_of("acme/help", 2, PEPPER)
    assert token_of("acme/help", 1, PEPPER) != token_of("acme/other", 1, PEPPER)
    renewed = place_of(WIDGET.model_copy(update={"token_number": 2}))
    registry = Registry(version=1, tenants={"acme": TenantRecord(config=TenantConfig(bots={"help": renewed.config}))})
    assert WidgetSites(registry, PEPPER).site(token_of("acme/help", 1, PEPPER)) is None


async def test_preflight_and_answers_over_http(page: Page) -> None:
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    fine = await page.http.options(f"{page.base}/messages", headers={"origin": page.origin, **asking})
    assert fine.status_code == 204
    assert fine.headers["access-control-allow-origin"] == page.origin
    assert "content-type" in fine.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in fine.headers
    evil = replace(page, origin="https://evil.example")
    refused = await page.http.options(f"{page.base}/messages", headers={"origin": evil.origin, **asking})
    assert refused.status_code == 404
    assert "access-control-allow-origin" not in refused.headers
    for answer in (await evil.get("config"), await evil.post("messages", {"text": "hi"})):
        assert answer.status_code == 404
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": "x" * 20_000}, 413, "larger than 16384 bytes"),
        ({"text": "x" * 2001}, 400, "at most 2000 characters"),
        ({"txet": "hi"}, 400, "Field required"),
    ],
)
async def test_a_page_can_read_why_its_message_was_not_taken(
    page: Page, body: dict[str, str], status: int, words: str
) -> None:
    readable(await page.post("messages", body), page, status, words)
    evil = await replace(page, origin="https://evil.example").post("messages", body)
    assert "access-control-allow-origin" not in evil.headers


async def test_a_page_can_read_that_its_message_came_too_slowly(page: Page) -> None:
    gateway = page.stage.gateway
    bounds = gateway.config.gateway.model_copy(update={"request_read_s_max": 0.2})
    gateway.config = gateway.config.model_copy(update={"gateway": bounds})

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"text": '
        await asyncio.sleep(5)

    async with page.http.stream(
        "POST", f"{page.base}/messages", content=slowly(), headers={"origin": page.origin}
    ) as answer:
        await answer.aread()
    readable(answer, page, 408, "did not arrive in time")


async def test_a_page_can_read_that_there_is_nothing_at_an_address(page: Page) -> None:
    for answer in (await page.get("messages"), await page.get("nothing/here")):
        assert answer.json()["error"]["code"] == ("method_not_allowed" if answer.status_code == 405 else "not_found")
        assert answer.headers["access-control-allow-origin"] == page.origin


@pytest.mark.parametrize("body", [b'{"text": "Gr\xfc\xdfe"}', b"[" * 15_000], ids=["latin-1", "too deep"])
async def test_a_body_that_cannot_be_read_is_not_told_as_a_wrong_address(page: Page, body: bytes) -> None:
    headers = {"origin": page.origin, "content-type": "application/json"}
    answer = await page.http.post(f"{page.base}/messages", content=body, headers=headers)
    readable(answer, page, 400, "not valid JSON")
    assert answer.json()["error"]["code"] == "invalid_json"


def readable(answer: httpx.Response, page: Page, status: int, words: str) -> None:
    """A browser gives this answer to the page's script, which shows its message."""
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert answer.headers.get_list("access-control-allow-origin") == [page.origin]
    assert "origin" in answer.headers["vary"]


async def test_script_and_demo_page(page: Page) -> None:
    script = await page.http.get(f"{page.stage.url}/widget.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "STYLE_SHEET" not in script.text
    assert ".bubble" in script.text
    again = await page.http.get(f"{page.stage.url}/widget.js", headers={"if-none-match": script.headers["etag"]})
    assert again.status_code == 304
    shop = await page.http.get(f"{page.stage.url}/widget/demo")
    assert page.token in shop.text
    assert "unsafe" not in shop.headers["content-security-policy"]
    for name in ("demo.css", "bowl.svg"):
        assert (await page.http.get(f"{page.stage.url}/widget/demo/{name}")).status_code == 200
    assert (await page.http.get(f"{page.stage.url}/widget/demo/..%2fdemo.py")).status_code == 404
    config = (await page.get("config")).json()
    assert config["title"] == "Alder & Ash"
    assert config["handover"] is True
    assert BOT not in str(config)


@pytest.mark.parametrize(
    "origin", ["https://*", "https://shop.example ", "https://*.shop.example", "https://a b.example"]
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    found = WidgetConfig(allowed_origins=(origin,)).problem()
    assert found is not None
    assert found[0] == "allowed_origins"


@pytest.mark.parametrize("origin", ["https://shop.example", "https://shop.example:8443", "http://127.0.0.1:8000"])
def test_an_origin_of_a_page_is_taken(origin: str) -> None:
    assert WidgetConfig(allowed_origins=(origin,)).problem() is None
