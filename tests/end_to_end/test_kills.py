"""Processes killed under running chats, on a host that is there for it; the last test kills that host itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.end_to_end import streams
from tests.end_to_end.streams import Heard
from tests.gateway.driver import until
from tests.host_process import LAPTOP, HostProcess, run_host

TIMEOUT = httpx.Timeout(90)
COUNT = "Count from 1 to 60, separated by commas."


@pytest.fixture(scope="module")
def own_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    with run_host(tmp_path_factory.mktemp("kills"), LAPTOP) as running:
        yield running


async def _start(client: httpx.AsyncClient, host: HostProcess, pieces: int) -> tuple[httpx.Response, Heard]:
    request = client.build_request(
        "POST",
        f"{host.url}/v1/chat/completions",
        headers=host.headers("acme") | {"Last-Event-ID": "0-0"},  # else the events have no ids
        json=streams.body("acme", COUNT, max_tokens=150),
    )
    answer = await client.send(request, stream=True)
    heard = Heard(answer.headers["x-bunkhouse-chat"])
    return answer, await streams.listen(answer, heard, stop_after=pieces)


async def test_a_chat_outlives_its_worker(own_host: HostProcess) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        whole = await streams.chat(client, own_host, "acme", COUNT, max_tokens=150)
        heard = Heard()
        running = asyncio.create_task(streams.chat(client, own_host, "acme", COUNT, heard, max_tokens=150))
        await until(lambda: len(heard.places) > 12, 60)
        own_host.kill("services.worker", "smollm2-kv8")
        await running
    heard.check()
    assert (heard.text, heard.finish, heard.done) == (whole.text, whole.finish, True)
    assert heard.completion_tokens == whole.completion_tokens
    assert {place.split("-")[0] for place in heard.places} == {"1", "2"}, "the worker died too late to matter"


async def test_a_chat_is_resumed_after_its_gateway_was_killed(own_host: HostProcess) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        whole = await streams.chat(client, own_host, "acme", COUNT, max_tokens=150)
        answer, heard = await _start(client, own_host, pieces=12)
        own_host.kill("gateway")
        await answer.aclose()
        before = len(heard.places)
        heard = await streams.resume(client, own_host, "acme", heard)
    heard.check()
    assert len(heard.places) > before
    assert (heard.text, heard.finish, heard.done) == (whole.text, whole.finish, True)


async def test_a_chat_outlives_scheduler_and_redis_restarts_keep_it(own_host: HostProcess) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        heard = Heard()
        running = asyncio.create_task(streams.chat(client, own_host, "acme", COUNT, heard, max_tokens=150))
        await until(lambda: heard.places, 60)
        own_host.kill("scheduler")
        after = await streams.chat(client, own_host, "globex", "Hello", max_tokens=4)
        await running
    heard.check()
    assert heard.done
    assert heard.finish in ("stop", "length")
    assert after.done, f"no chat was admitted after the scheduler came back: {after.error}"


async def test_a_client_that_goes_away_cancels_its_chat_down_to_the_engine(host: HostProcess) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        answer, heard = await _start(client, host, pieces=3)
        await answer.aclose()
        state = f"{host.url}/v1/chats/{heard.chat}"
        async with asyncio.timeout(15):
            while True:
                seen = (await client.get(state, headers=host.headers("acme"))).json()
                if seen.get("finish_reason") or seen.get("state") == "done":
                    break
                await asyncio.sleep(0.2)
        rest = await streams.resume(client, host, "acme", heard)
    assert len(rest.places) < 150
    assert "cancelled" in (rest.error or "")


async def test_fifty_chats_each_of_two_tenants_are_all_answered(host: HostProcess) -> None:
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits) as client:
        chats = [
            streams.chat(client, host, tenant, f"Say the number {number}.", max_tokens=5)
            for number in range(50)
            for tenant in ("acme", "globex")
        ]
        heard = await asyncio.gather(*chats)
    assert [item.error for item in heard if item.error] == []
    assert all(item.done and item.text for item in heard)
    for item in heard:
        item.check()


def test_a_killed_supervisor_leaves_no_orphan(own_host: HostProcess) -> None:
    family = psutil.Process(own_host.process.pid).children(recursive=True)
    assert len(family) >= 7, "gateway, scheduler, two workers, two engines, Redis"
    own_host.process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
