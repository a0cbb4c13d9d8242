"""Addresses and paths that somebody else chose lead nowhere inside."""

from __future__ import annotations

import pytest

from gateway.widget.webhook import WebhookFailed, post
from services.model_files.weights import WeightsError, resolve
from tests.security.conftest import Hosted

INSIDE = [
    "10.0.0.1",
    "172.16.0.9",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "127.0.0.1",
    "0.0.0.0",
    "::1",
    "fd00::1",
    "fe80::1%eth0",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
]


@pytest.mark.parametrize("address", INSIDE)
async def test_a_webhook_whose_name_leads_inside(address: str) -> None:
    async def resolver(_: str, __: int) -> list[str]:
        return ["8.8.8.8", address]

    with pytest.raises(WebhookFailed, match="may not reach") as refused:
        await post("https://shop.example/hook", b"{}", {}, resolver=resolver)
    assert refused.value.final


@pytest.mark.parametrize("url", ["http://shop.example/", "ftp://shop.example/", "gopher://x/", "file:///etc/passwd"])
async def test_a_webhook_by_another_scheme(url: str) -> None:
    with pytest.raises(WebhookFailed):
        await post(url, b"{}", {})


@pytest.mark.parametrize("name", ["../../no/such", "http://169.254.169.254/x", "package:../x", "package:os"])
def test_weights_are_a_file_or_a_name(name: str) -> None:
    with pytest.raises(WeightsError):
        resolve(name)


@pytest.mark.parametrize("change", [{"weights": "/etc/passwd"}, {"adapter": "../../etc/passwd"}, {"path": "/etc"}])
def test_no_path_comes_in_through_the_admin_api(hosted: Hosted, change: dict[str, str]) -> None:
    admin = {"Authorization": f"Bearer {hosted.secrets.admin_key}"}
    bot = {"model": "one", **change}
    answer = hosted.http.put("/admin/v1/bots/acme/other", headers=admin, json=bot)
    assert answer.status_code in (400, 404, 409, 422), answer.text


@pytest.mark.parametrize("hook", ["http://169.254.169.254/latest", "http://10.0.0.1/", "https://user:pw@x.example/"])
def test_no_webhook_inside_comes_in_through_the_admin_api(hosted: Hosted, hook: str) -> None:
    admin = {"Authorization": f"Bearer {hosted.secrets.admin_key}"}
    bot = {"model": "one", "widget": {"handover_webhook": hook}}
    answer = hosted.http.put("/admin/v1/bots/acme/other", headers=admin, json=bot)
    assert answer.status_code in (400, 422), answer.text
