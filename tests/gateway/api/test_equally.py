"""What holds for a chat holds for every API over it: keys, limits, draining, idempotency, bounds and metrics."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson

from tests.gateway.conftest import ACME, Host, HostFactory
from tests.gateway.driver import Script, until
from tests.gateway.test_limits import limited

HELLO = [{"role": "user", "content": "Hello"}]
ASKING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "raw", "messages": HELLO},
    "/v1/responses": {"model": "raw", "input": "Hello"},
    "/v1/messages": {"model": "raw", "messages": HELLO, "max_tokens": 16},
    "/v1/completions": {"model": "raw", "prompt": "Hello"},
}
COUNTING: dict[str, dict[str, Any]] = {
    "/v1/messages/count_tokens": {"model": "raw", "messages": HELLO},
    "/tokenize": {"model": "raw", "prompt": "Hello"},
}


async def ask(host: Host, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    body = (ASKING | COUNTING)[path] | more
    return await host.http.post(
        host.url + path, headers={"authorization": f"Bearer {ACME}"} | (headers or {}), json=body
    )


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def test_a_tenants_limit_counts_all_of_them(host: Host) -> None:
    await host.change(limited(requests_per_minute=len(ASKING)))
    for left, path in reversed(list(enumerate(ASKING))):
        answer = await ask(host, path)
        assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, str(left))
    for path in ASKING:
        answer = await ask(host, path)
        assert (answer.status_code, code_of(answer)) == (429, "rate_limit_exceeded"), path
        assert answer.headers["retry-after"]
    for path in COUNTING:
        assert (await ask(host, path)).status_code == 200


async def test_what_is_refused_everywhere(host: Host) -> None:
    for path in ASKING | COUNTING:
        for headers, more, refused in (
            ({"authorization": ""}, {}, (401, "invalid_api_key")),
            ({"x-bunkhouse-tenant": "globex"}, {}, (400, "unsupported_parameter")),
            ({"content-encoding": "gzip"}, {}, (415, "unsupported_media_type")),
            ({"content-type": "text/plain"}, {}, (415, "unsupported_media_type")),
            ({}, {"model": "globex/returns"}, (404, "model_not_found")),
        ):
            answer = await ask(host, path, headers, **more)
            assert (answer.status_code, code_of(answer)) == refused, (path, refused)
        wrong = await host.http.get(host.url + path)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    host.state.draining = True
    for path in ASKING | COUNTING:
        answer = await ask(host, path)
        assert (answer.status_code, code_of(answer)) == (503, "draining"), path
    assert host.driver.tickets == []


async def test_bodies_are_bounded(hosts: HostFactory) -> None:
    async with hosts(body_bytes_max=1000) as host:
        for path in ASKING | COUNTING:
            answer = await ask(host, path, user="x" * 1000)
            assert (answer.status_code, code_of(answer)) == (413, "request_too_large"), path


async def test_the_same_key_is_the_same_chat(host: Host) -> None:
    for number, path in enumerate(ASKING):
        headers = {"idempotency-key": path}
        whole, again = await ask(host, path, headers), await ask(host, path, headers)
        assert whole.json()["id"] == again.json()["id"]
        streamed = await ask(host, path, headers, stream=True)
        assert streamed.headers["x-bunkhouse-chat"] == whole.headers["x-bunkhouse-chat"]
        assert "wörld" in streamed.text
        assert len(host.driver.tickets) == number + 1
        other = await ask(host, path, headers, temperature=0.1)
        assert (other.status_code, code_of(other)) == (422, "idempotency_key_reused")


async def test_a_client_that_leaves_ends_its_chat(hosts: HostFactory) -> None:
    async with hosts(resume_grace_s=0.0) as host:
        host.driver.script_for = lambda _: Script(pieces=("word ",) * 1000, pause_s=0.05)
        for path, body in ASKING.items():
            async with host.http.stream(
                "POST", host.url + path, headers={"authorization": f"Bearer {ACME}"}, json={**body, "stream": True}
            ) as answer:
                await anext(answer.aiter_bytes())
            await until(lambda: {ticket.chat for ticket in host.driver.tickets} == host.driver.settled)
        assert len(host.driver.tickets) == len(ASKING)


async def test_a_stream_that_is_handed_over_says_so(hosts: HostFactory) -> None:
    async with hosts(drain_s=0.1) as host:
        host.driver.script_for = lambda _: Script(pieces=("word ",) * 1000, pause_s=0.05)
        streams = [asyncio.create_task(ask(host, path, stream=True)) for path in ASKING]
        await until(lambda: len(host.driver.claims) == len(ASKING))
        host.server.handle_exit(15, None)
        for stream in streams:
            assert '"handed_over"' in (await stream).text


async def test_unknown_names_are_ignored(host: Host) -> None:
    for path in ASKING:
        assert (await ask(host, path, flavour="mint")).status_code == 200


async def test_a_strict_host_refuses_unknown_names(hosts: HostFactory) -> None:
    async with hosts(strict=True) as host:
        for path in ASKING:
            answer = await ask(host, path, flavour="mint")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "flavour"), path


async def test_metrics_and_sessions(host: Host) -> None:
    for path in ASKING:
        assert (await ask(host, path, {"x-bunkhouse-session": "s1"})).status_code == 200
    assert {ticket.session for ticket in host.driver.tickets} == {"s1"}
    text = (await host.http.get(f"{host.url}/metrics")).text
    for path in ASKING:
        assert f'route="{path}"' in text
    shown = (await host.http.get(f"{host.url}/openapi.json")).content
    assert all(path in orjson.loads(shown)["paths"] for path in ASKING | COUNTING)
