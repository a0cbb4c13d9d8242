"""The demo shop with its real model and its order service: an order is looked up, cancelled after a yes, and missed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.support_actions import Shop, running_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with running_shop(tmp_path_factory.mktemp("shop")) as running:
        yield running


def calls(shop: Shop) -> list[tuple[str, str]]:
    return re.findall(r'"(GET|POST) (\S+)', shop.log.read_text())


def test_where_is_order_4711(shop: Shop) -> None:
    answer, end = shop.widget.ask("Where is order 4711?")
    assert "DHL" in answer
    assert "4 December" in answer
    assert end["finish"] == "stop"
    assert calls(shop)[-1] == ("GET", "/v1/orders/4711")


def test_an_order_is_cancelled_after_a_yes(shop: Shop) -> None:
    _, end = shop.widget.ask("Please cancel order 4712.")
    confirm = end["confirm"]
    assert (confirm["action"], confirm["text"]) == ("cancel_order", "Shall I cancel order 4712?")
    assert not [call for call in calls(shop) if call[0] == "POST"]
    answer, _ = shop.widget.decide(confirm["id"], yes=True)
    assert "cancelled" in answer
    assert [path for method, path in calls(shop) if method == "POST"] == ["/v1/orders/4712/cancel"]


def test_without_its_order_service_the_bot_says_so(shop: Shop) -> None:
    shop.stop_orders()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{shop.address}/v1/orders/4711")
    answer, end = shop.widget.ask("Where is order 4713?")
    assert "cannot look up" in answer
    assert end["finish"] == "stop"
