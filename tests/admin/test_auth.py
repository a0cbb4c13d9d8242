"""Who may do what, and which key is for which API."""

from __future__ import annotations

import pytest

from gateway.admin.router import application
from gateway.outcomes import Refused
from services.config.api_keys import new_key
from tests.admin.conftest import ACME, ADMIN_KEY, Admin


async def test_the_owners_key_is_the_hosts(admin: Admin) -> None:
    assert await admin.ask("GET", "/me") == {"name": "owner", "role": "owner"}


async def test_a_tenants_key_is_told_apart_from_a_wrong_one(admin: Admin) -> None:
    error = await admin.refused(401, "GET", "/me", key=ACME)
    assert error["code"] == "invalid_admin_key"
    assert "tenant's API key" in error["message"]
    assert "not valid" in (await admin.refused(401, "GET", "/me", key=new_key()))["message"]
    assert "No admin key" in (await admin.refused(401, "GET", "/me", key=""))["message"]


async def test_an_admin_key_is_none_of_the_chat_apis(admin: Admin) -> None:
    made = (await admin.ask("POST", "/admins", {"name": "night", "role": "owner"}))["key"]
    for key in (ADMIN_KEY, made):
        with pytest.raises(Refused) as refused:
            await admin.gateway.directory.authenticate(f"Bearer {key}")
        assert refused.value.row.status == 401
        assert "admin key" in refused.value.message
    assert await admin.gateway.directory.authenticate(f"Bearer {ACME}") == "acme"


async def test_roles_hold_at_every_endpoint(admin: Admin) -> None:
    made = {
        role: (await admin.ask("POST", "/admins", {"name": role, "role": role}))["key"]
        for role in ("viewer", "operator")
    }
    assert await admin.ask("GET", "/me", key=made["viewer"]) == {"name": "viewer", "role": "viewer"}
    for path, methods in application().openapi()["paths"].items():
        for method in methods:
            filled = path.removeprefix("/admin/v1").replace("{verb}", "wake")
            answer = await admin.raw(method.upper(), filled, {} if method in ("post", "put", "patch") else None)
            assert answer.status_code != 401, (method, path)
            viewed = await admin.raw(method.upper(), filled, {}, key=made["viewer"])
            if method != "get" or path.endswith("/admins"):
                assert viewed.status_code in (400, 403), (method, path)  # a wrong body is told to nobody but who may
            else:
                assert viewed.status_code not in (401, 403), (method, path)


async def test_a_revoked_admin_key_dies_at_once(admin: Admin) -> None:
    made = await admin.ask("POST", "/admins", {"name": "night", "role": "operator"})
    assert [known["name"] for known in (await admin.ask("GET", "/admins"))["items"]] == ["night"]
    assert "key" not in (await admin.ask("GET", "/admins"))["items"][0]
    await admin.ask("DELETE", f"/admins/{made['id']}")
    await admin.refused(401, "GET", "/me", key=made["key"])
    await admin.refused(404, "DELETE", f"/admins/{made['id']}")


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("POST", "/me")])
async def test_the_frameworks_errors_look_like_ours(admin: Admin, method: str, path: str) -> None:
    error = await admin.refused(404 if path == "/nothing" else 405, method, path)
    assert set(error) == {"message", "type", "param", "code"}
