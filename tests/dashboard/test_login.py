"""Who gets in, what the browser keeps, and what another site's page cannot do."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.dashboard.logins import COOKIE, IDLE_S, LIFE_S, Logins
from services.config.api_keys import ready_key
from services.store.connection import connect

from .conftest import Operator

PAGES = ("/", "/dashboard/tenants", "/dashboard/jobs", "/dashboard/playground")
PARTS = ("/dashboard/parts/now", "/dashboard/parts/jobs", "/dashboard/series", "/dashboard/explain?chat=x")


async def test_nobody_sees_a_page_without_a_session(operator: Operator) -> None:
    for path in PAGES:
        answer = await operator.http.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/dashboard/login")
    for path in PARTS:
        answer = await operator.http.get(path, headers={"hx-request": "true"})
        assert answer.status_code == 401
        assert answer.text == ""


async def test_the_cookie_is_sealed_and_the_key_is_nowhere(operator: Operator) -> None:
    answer = await operator.log_in()
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie  # this came over plain HTTP to loopback
    key = operator.stage.secrets.admin_key
    assert key not in cookie
    redis = operator.stage.connection.redis
    for name in await redis.keys("bh:dashboard:*"):
        stored = await redis.get(name)
        assert key.encode() not in stored
        assert operator.http.cookies[COOKIE].partition(".")[0].encode() not in name + stored
    assert (await operator.http.get("/")).status_code == 200
    proxied = await operator.log_in(**{"x-forwarded-proto": "https"})
    assert "Secure" in proxied.headers["set-cookie"]


async def test_keys_that_are_none(operator: Operator) -> None:
    tenant = ready_key("northwind", operator.stage.secrets.pepper)
    for key in ("", " ", "bh-wrong", tenant, "ключ", "a\r\nb: c", "x" * 3000):
        answer = await operator.log_in(key)
        assert answer.status_code == 401, key
        assert "admin key is not valid" in answer.text
        assert COOKIE not in operator.http.cookies


async def test_guessing_is_slowed_down(operator: Operator) -> None:
    codes = [(await operator.log_in("bh-guess")).status_code for _ in range(12)]
    assert codes[0] == 401
    assert codes[-1] == 429


async def test_logging_in_often_is_fine(operator: Operator) -> None:
    codes = {(await operator.log_in()).status_code for _ in range(15)}
    assert codes == {303}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_another_sites_page_cannot_log_in_or_change(operator: Operator, headers: dict[str, str]) -> None:
    assert (await operator.log_in(**headers)).status_code == 401
    await operator.log_in()
    assert (await operator.post("/dashboard/models/qwen3-8b/kv/4", **headers)).status_code == 401


async def test_a_change_needs_the_pages_token(operator: Operator) -> None:
    await operator.log_in()
    for token in ("", "0" * 64):
        answer = await operator.post("/dashboard/models/qwen3-8b/kv/4", **{"x-csrf-token": token})
        assert answer.status_code == 401
        assert "Reload it" in answer.text
    latin = {b"origin": operator.stage.url.encode(), b"x-csrf-token": b"\xe9" * 64}
    refused = await operator.http.post("/dashboard/models/qwen3-8b/kv/4", headers=latin)
    assert refused.status_code == 401
    done = await operator.post("/dashboard/models/qwen3-8b/kv/4")
    assert done.status_code == 200, done.text


async def test_forged_and_cut_cookies(operator: Operator) -> None:
    await operator.log_in()
    value = operator.http.cookies[COOKIE]
    secret, _, signature = value.partition(".")
    for forged in ("", "x", secret, f"{secret}.", f".{signature}", f"{secret}x.{signature}", f"{secret}.{'0' * 64}"):
        answer = await operator.http.get("/", headers={"cookie": f"{COOKIE}={forged}"})
        assert answer.status_code in (200, 303)
    async with httpx.AsyncClient(base_url=operator.stage.url) as other:
        for forged in ("", "x", secret, f"{secret}.", f".{signature}", f"{secret}x.{signature}"):
            answer = await other.get("/", headers={"cookie": f"{COOKIE}={forged}"})
            assert answer.status_code == 303, forged
        for latin in (b"a.\xe9", b"\xe9.a", b"\xe9"):
            answer = await other.get("/", headers={b"cookie": COOKIE.encode() + b"=" + latin})
            assert answer.status_code == 303, latin


async def test_sessions_end(redis_url: str) -> None:
    now_s = 1_000_000.0
    async with connect(redis_url) as connection:
        sessions = Logins(connection, b"p" * 32, lambda: now_s)
        cookie = await sessions.begin("bh-key", "owner", "owner")
        found = await sessions.find(cookie)
        assert found is not None
        assert (found.key, found.name, found.role, found.operates) == ("bh-key", "owner", "owner", True)
        assert "bh-key" not in repr(found)
        assert 0 < await connection.redis.ttl((await connection.redis.keys("bh:dashboard:session:*"))[0]) <= IDLE_S
        now_s += LIFE_S + 1
        assert await sessions.find(cookie) is None
        now_s -= LIFE_S
        await sessions.end(cookie)
        assert await sessions.find(cookie) is None
        other = Logins(connection, b"q" * 32, lambda: now_s)
        assert await other.find(await sessions.begin("bh-key", "owner", "owner")) is None


async def test_where_a_login_leads_stays_here(operator: Operator) -> None:
    for wanted in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb"):
        answer = await operator.http.post(
            "/dashboard/login",
            data={"key": operator.stage.secrets.admin_key, "next": wanted},
            headers={"origin": operator.stage.url},
        )
        assert answer.headers["location"] == "/", wanted


async def test_every_answer_carries_the_policy(operator: Operator) -> None:
    await operator.log_in()
    for path in (*PAGES, *PARTS, "/dashboard/login", "/dashboard/static/app.js", "/dashboard/static/nothing.js"):
        answer = await operator.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.headers["content-type"].startswith("text/html"):
            assert " style=" not in answer.text, path
            assert "onclick" not in answer.text
            assert "<script>" not in answer.text


async def test_a_viewer_may_not_chat_or_change(operator: Operator) -> None:
    key = operator.stage.secrets.admin_key
    made = await operator.http.post(
        "/admin/v1/admins",
        json={"name": "night-shift", "role": "viewer"},
        headers={"authorization": f"Bearer {key}"},
    )
    await operator.log_in(made.json()["key"])
    chat = {"bot": "alder-ash/shop", "session": "abcdefgh", "messages": [{"role": "user", "content": "hi"}]}
    assert (await operator.post("/dashboard/playground/chats", chat)).status_code == 403
    assert (await operator.post("/dashboard/models/qwen3-8b/kv/4")).status_code == 403
    assert (await operator.post("/dashboard/jobs/new/autotune")).status_code == 403


async def test_bad_input_is_refused_in_words(operator: Operator) -> None:
    await operator.log_in()
    assert (await operator.post("/dashboard/models/nobody/kv/4")).status_code == 404
    assert (await operator.post("/dashboard/models/qwen3-8b/kv/5")).status_code in (400, 422)
    assert (await operator.post("/dashboard/models/qwen3-8b/kv/four")).status_code == 422
    assert (await operator.post("/dashboard/jobs/nothing/cancel")).status_code == 404
    bodies: list[Any] = [None, [], {}, {"bot": "x"}, {"bot": "alder-ash/shop", "session": "abcdefgh", "messages": []}]
    for body in bodies:
        assert (await operator.post("/dashboard/playground/chats", body)).status_code == 422
    unknown = {"bot": "nobody/nothing", "session": "abcdefgh", "messages": [{"role": "user", "content": "hi"}]}
    assert (await operator.post("/dashboard/playground/chats", unknown)).status_code == 404
    for path in ("/dashboard/series?after=x", "/dashboard/series?after=-1", f"/dashboard/explain?chat={'x' * 99}"):
        assert (await operator.http.get(path)).status_code == 422
    assert (await operator.http.get("/dashboard/static/../router.py")).status_code == 404
    assert (await operator.http.get("/dashboard/nothing")).status_code == 404


async def test_a_customers_answer_is_not_for_the_playground(operator: Operator) -> None:
    await operator.log_in()
    answer = await operator.http.post(
        "/v1/chat/completions",
        json={"model": "helpdesk", "messages": [{"role": "user", "content": "secret"}]},
        headers={"authorization": f"Bearer {ready_key('northwind', operator.stage.secrets.pepper)}"},
    )
    chat = answer.json()["id"]
    assert (await operator.http.get(f"/dashboard/playground/chats/{chat}")).status_code == 404
    assert (await operator.post(f"/dashboard/playground/chats/{chat}/stop")).status_code == 404


async def test_a_session_survives_many_requests_at_once(operator: Operator) -> None:
    await operator.log_in()
    answers = await asyncio.gather(*(operator.http.get("/dashboard/parts/now") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
