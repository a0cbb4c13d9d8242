"""A bot's actions through the admin API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.admin.conftest import CONFIG, Admin

ORDER: dict[str, Any] = {"pattern": "^[0-9]{4}$", "from_message": True}
STATUS: dict[str, Any] = {
    "description": "Looks an order up.",
    "url": "https://shop.example/v1/orders/{order}",
    "parameters": {"properties": {"order": ORDER}, "required": ["order"]},
}


def bot(action: dict[str, Any]) -> dict[str, Any]:
    return {"model": next(iter(CONFIG.models)), "actions": {"order_status": action}}


async def test_a_bot_with_an_action_is_put_and_shown(admin: Admin) -> None:
    made = await admin.ask("PUT", "/bots/acme/orders", bot(STATUS))
    assert made["config"]["actions"]["order_status"]["url"] == STATUS["url"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"url": "https://169.254.169.254:0/{order}"}, "actions.order_status.url"),
        ({"url": "http://10.0.0.1/{order}"}, "actions.order_status.url"),
        ({"secret_headers": {"authorization": "of-another"}}, "actions.order_status.secret_headers"),
        (
            {"parameters": {"properties": {"order": {"pattern": "^(?=a)b$"}}, "required": ["order"]}},
            "actions.order_status.parameters.properties.order.pattern",
        ),
    ],
)
async def test_an_action_that_could_not_work_is_refused(admin: Admin, change: dict[str, Any], param: str) -> None:
    refused = await admin.refused(400, "PUT", "/bots/acme/orders", bot(STATUS | change))
    assert refused["param"] == param
