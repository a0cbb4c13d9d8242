"""What stands between a client and a handler: base URLs, methods, encodings, keys and CORS."""

from __future__ import annotations

import gzip

import httpx
import openai
import orjson
import pytest
from pydantic import ValidationError

from .conftest import ACME, Host, HostFactory, config_of
from .test_bad_input import GOOD, error_of

PAGE = "https://app.example"
BEARER = {"authorization": f"Bearer {ACME}"}


async def test_base_urls_that_clients_are_given(host: Host) -> None:
    for base in ("", "/", "/v1", "/v1/", "/v1/v1"):
        async with openai.AsyncOpenAI(base_url=host.url + base, api_key=ACME, max_retries=0) as client:
            assert (await client.chat.completions.create(**GOOD)).choices[0].message.content
            assert {model.id for model in (await client.models.list()).data} >= {"acme/support", "acme/tiny"}
            assert (await client.models.retrieve("acme/support")).id == "acme/support"
            assert (await client.models.retrieve("support")).id == "acme/support"


async def test_slashes_too_many(host: Host) -> None:
    for path in ("/v1/models/", "//v1//models", "/models/", "/v1/models/acme/support/", "/health/"):
        assert (await host.http.get(host.url + path, headers=BEARER)).status_code == 200, path
    assert (await host.http.post(f"{host.url}/v1/chat/completions/", headers=BEARER, json=GOOD)).status_code == 200
    page = await host.http.get(f"{host.url}/metrics")
    assert 'route="/v1/models/{id}"' in page.text
    assert "//" not in page.text.replace("://", "")


async def test_head_where_get_is(host: Host) -> None:
    chat = (await host.ask(GOOD)).json()["id"]
    for path in ("/v1/models", "/v1/models/support", "/health", f"/v1/chats/{chat}", f"/v1/chats/{chat}/stream"):
        answer = await host.http.head(host.url + path, headers=BEARER)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert (await host.http.head(f"{host.url}/v1/chats/chatcmpl-none/stream", headers=BEARER)).status_code == 404
    assert (await host.http.head(f"{host.url}/v1/models")).status_code == 401
    answer = await host.http.head(f"{host.url}/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_wrong_method_is_told_the_right_one(host: Host) -> None:
    for method, path, right in (
        ("POST", "/v1/models", "GET"),
        ("GET", "/chat/completions", "POST"),
        ("DELETE", "/v1/models/support", "GET"),
        ("GET", "/v1/chats/x/cancel", "POST"),
        ("OPTIONS", "/v1/models", "GET"),
    ):
        answer = await host.http.request(method, host.url + path, headers=BEARER)
        assert f"takes {right}, not {method}" in error_of(answer, 405, "method_not_allowed")
        assert answer.headers["allow"].split(", ")[0] == right
    assert "/openapi.json" in error_of(await host.http.get(f"{host.url}/v1"), 404, "not_found")


async def test_a_compressed_body_is_refused_by_its_encoding(host: Host) -> None:
    body = gzip.compress(orjson.dumps(GOOD))
    for encoding in ("gzip", "br", "GZIP, identity"):
        answer = await host.ask(body, **{"content-encoding": encoding, "content-type": "application/json"})
        assert encoding in error_of(answer, 415, "unsupported_media_type")
    assert (await host.ask(orjson.dumps(GOOD), **{"content-encoding": "identity"})).status_code == 200
    admin = await host.http.post(f"{host.url}/admin/v1/tenants", content=body, headers={"content-encoding": "gzip"})
    assert admin.status_code == 415


async def test_a_key_as_anthropic_clients_send_it(host: Host) -> None:
    answer = await host.http.get(f"{host.url}/v1/models", headers={"x-api-key": ACME})
    assert answer.status_code == 200
    error_of(await host.http.get(f"{host.url}/v1/models", headers={"x-api-key": "x"}), 401, "invalid_api_key")


async def _preflight(host: Host, origin: str, path: str = "/v1/chat/completions") -> httpx.Response:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    return await host.http.options(host.url + path, headers={"origin": origin, **asks})


async def test_pages_of_configured_origins(hosts: HostFactory) -> None:
    async with hosts(cors_origins=[PAGE]) as host:
        first = await _preflight(host, PAGE)
        assert first.status_code == 204
        assert first.headers["access-control-allow-origin"] == PAGE
        assert "POST" in first.headers["access-control-allow-methods"]
        assert first.headers["access-control-allow-headers"] == "authorization,x-stainless-os"
        good = await host.ask({**GOOD, "stream": True}, origin=PAGE)
        bad = await host.ask({**GOOD, "model": "x"}, origin=PAGE)
        nowhere = await host.http.get(f"{host.url}/v1/nothing", headers={"origin": PAGE})
        assert [answer.status_code for answer in (good, bad, nowhere)] == [200, 404, 404]
        for answer in (good, bad, nowhere):
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-expose-headers"] == "*"
            assert answer.headers["vary"] == "origin"
            assert "access-control-allow-credentials" not in answer.headers


async def test_pages_of_other_origins(hosts: HostFactory) -> None:
    other = "https://app.example.evil"
    async with hosts(cors_origins=[PAGE]) as host:
        refused = await _preflight(host, other)
        assert "gateway.cors_origins" in error_of(refused, 405, "method_not_allowed")
        answer = await host.ask(GOOD, origin=other)
        for one in (refused, answer, await host.ask(GOOD)):
            assert "access-control-allow-origin" not in one.headers
            assert one.headers["vary"] == "origin"


async def test_pages_of_any_origin(hosts: HostFactory) -> None:
    async with hosts(cors_origins=["*"]) as host:
        for origin in (PAGE, "null", "app://obsidian.md"):
            assert (await _preflight(host, origin)).headers["access-control-allow-origin"] == origin


async def test_no_page_is_allowed_by_default(host: Host) -> None:
    error_of(await _preflight(host, PAGE), 405, "method_not_allowed")
    assert "vary" not in (await host.ask(GOOD, origin=PAGE)).headers


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "", "**"])
def test_what_is_not_an_origin(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        config_of(cors_origins=[origin])
