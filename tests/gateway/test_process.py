"""The real process: it drains on a signal, hands over what does not finish, and may be killed at any time."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.main import listening
from services.store.connection import Connection, connect
from services.store.registry import Registry, seeded
from services.store.registry_edit import write_registry

from .conftest import SECRETS, Host, config_of
from .driver import Driver, Script, ended, until
from .test_bad_input import GOOD, error_of
from .test_leaving import BEARER, Heard, begin, go_on

START_S_MAX = 60.0
LONG = Script(pieces=[f"{number} " for number in range(60)], pause_s=0.05)
LONG_TEXT = LONG.text


@asynccontextmanager
async def process(
    folder: Path, redis_url: str, drain_s: float = 5.0, port: int | None = None, **gateway: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`python -m gateway CONFIG`, ready."""
    if port is None:
        with listening("127.0.0.1", 0) as probe:
            port = probe.getsockname()[1]
    config = config_of(port=port, drain_s=drain_s, **gateway).model_copy(update={"data_dir": folder})
    path = folder / "bunkhouse.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    stored = {"pepper": SECRETS.pepper.hex(), "salt": SECRETS.salt.hex(), "redis_password": "", "admin_key": ""}
    (folder / "secrets.json").write_text(json.dumps(stored))
    with (folder / "log").open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", str(path)),
            env={**os.environ, "BUNKHOUSE_REDIS_URL": redis_url},
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        await _answering(url, child)
        yield child, url
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def _answering(url: str, child: asyncio.subprocess.Process) -> None:
    async with httpx.AsyncClient() as http, asyncio.timeout(START_S_MAX):
        while True:
            assert child.returncode is None
            try:
                if (await http.get(f"{url}/health")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


class Outside:
    """Everything but the gateway."""

    def __init__(self, connection: Connection, driver: Driver, http: httpx.AsyncClient) -> None:
        self.connection, self.driver, self.http = connection, driver, http

    def at(self, url: str) -> Host:
        """The helpers of other tests, for a gateway in a process."""
        none: Any = None
        return Host(url, none, none, self.connection, self.driver, self.http, none, none)


@pytest.fixture
async def outside(redis_url: str) -> AsyncIterator[Outside]:
    async with connect(redis_url) as connection, httpx.AsyncClient(timeout=20.0) as http:
        assert await write_registry(connection, 0, seeded(Registry(), config_of(), SECRETS.pepper, time.time()))
        driver = Driver(connection, script_for=lambda _: LONG)
        driving = asyncio.create_task(driver.run())
        yield Outside(connection, driver, http)
        await ended(driving)


async def test_a_signal_drains(outside: Outside, redis_url: str, tmp_path: Path) -> None:
    async with process(tmp_path, redis_url) as (child, url):
        host, heard = outside.at(url), Heard()
        listening_on = asyncio.create_task(begin(host, heard, 10_000))
        await until(lambda: heard.texts)
        child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
        ready = await outside.http.get(f"{url}/ready")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["draining"])
        refused = await host.ask(GOOD)
        error_of(refused, 503, "draining")
        assert refused.headers["retry-after"] == "1"
        await listening_on
        assert (heard.text, heard.done) == (LONG_TEXT, True)
        assert await asyncio.wait_for(child.wait(), 3) == 0
    assert not outside.driver.cancelled


async def test_what_does_not_finish_is_handed_over(outside: Outside, redis_url: str, tmp_path: Path) -> None:
    heard = Heard()
    async with process(tmp_path, redis_url, drain_s=0.5) as (child, url):
        host = outside.at(url)
        listening_on = asyncio.create_task(begin(host, heard, 10_000))
        whole = asyncio.create_task(host.ask(GOOD, **{"idempotency-key": "whole"}))
        await until(lambda: heard.texts and len(outside.driver.claims) == 2)
        child.send_signal(signal.SIGTERM)
        await listening_on
        error_of(await whole, 503, "handed_over")
        assert await asyncio.wait_for(child.wait(), 3) == 0
        assert (heard.done, heard.error) == (False, "handed_over"), "half an answer does not look like a whole one"
        assert heard.text != LONG_TEXT
    async with process(tmp_path, redis_url) as (_, url):
        await go_on(outside.http, url, heard)
        assert (heard.text, heard.done) == (LONG_TEXT, True)
        again = await outside.at(url).ask(GOOD, **{"idempotency-key": "whole"})
        assert again.json()["choices"][0]["message"]["content"] == LONG_TEXT
    assert not outside.driver.cancelled
    assert len(outside.driver.claims) == 2


@pytest.mark.parametrize(("trusted", "status"), [(["127.0.0.0/8"], 401), ([], 429)])
async def test_clients_behind_a_trusted_proxy_are_told_apart(
    outside: Outside, redis_url: str, tmp_path: Path, trusted: list[str], status: int
) -> None:
    """Tries to log in are counted by address."""
    async with process(tmp_path, redis_url, trusted_proxies=trusted) as (_, url):

        async def guess(address: str) -> int:
            headers = {"origin": url, "x-forwarded-for": address}
            return (
                await outside.http.post(f"{url}/dashboard/login", data={"key": "guess"}, headers=headers)
            ).status_code

        for _ in range(25):  # two minutes' worth, should one end meanwhile
            if await guess("203.0.113.1") == 429:
                break
        assert await guess("203.0.113.2") == status


async def test_a_killed_gateway_loses_no_token(outside: Outside, redis_url: str, tmp_path: Path) -> None:
    heard = Heard()
    async with process(tmp_path, redis_url) as (child, url):
        listening_on = asyncio.create_task(begin(outside.at(url), heard, 10_000))
        await until(lambda: len(heard.texts) > 5)
        child.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            await listening_on
    async with process(tmp_path, redis_url) as (_, url):
        await go_on(outside.http, url, heard)
    assert (heard.text, heard.done, heard.roles) == (LONG_TEXT, True, 1)
    log = (tmp_path / "log").read_text()
    for secret in (*BEARER.values(), SECRETS.pepper.hex(), SECRETS.salt.hex()):
        assert secret.removeprefix("Bearer ") not in log


async def test_no_configuration_is_told_in_words(tmp_path: Path) -> None:
    for arguments, words in (([], "usage"), ([str(tmp_path / "none.yaml")], "cannot be read")):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *arguments, stderr=asyncio.subprocess.PIPE
        )
        _, said = await child.communicate()
        assert child.returncode == 2
        assert words in said.decode()
        assert "Traceback" not in said.decode()


async def test_processes_that_share_a_port_count_together(outside: Outside, redis_url: str, tmp_path: Path) -> None:
    outside.driver.script_for = lambda _: Script()
    async with process(tmp_path, redis_url, processes=2, metrics_per_tenant=True) as (_, url):
        port = int(url.rpartition(":")[2])
        async with process(tmp_path, redis_url, processes=2, port=port, metrics_per_tenant=True):
            for _ in range(12):  # each on a connection of its own, so that the kernel spreads them
                async with httpx.AsyncClient(timeout=20.0) as http:
                    await http.post(f"{url}/v1/chat/completions", json=GOOD, headers=BEARER)
            for _ in range(4):
                async with httpx.AsyncClient() as http:
                    told = (await http.get(f"{url}/metrics")).text
                labels = 'error_type="",gen_ai_request_model="acme/support"'
                assert f"gen_ai_server_request_duration_seconds_count{{{labels}}} 12.0" in told
                assert "bunkhouse_gateway_open_chats 0.0" in told


async def test_a_shell_s_limit_on_open_files_is_not_the_gateway_s(
    outside: Outside, redis_url: str, tmp_path: Path
) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, most))
    try:
        async with process(tmp_path, redis_url) as (child, _):
            assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
