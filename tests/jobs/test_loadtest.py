"""Load tests as jobs: where the gateway is, and what is said when it is not there. With real Celery workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.config.schema import GatewayConfig
from services.host.host import seed
from services.jobs.loadtest import gateway_url
from services.store.connection import Connection
from services.store.jobs import Jobs, JobState, StoredJob
from services.store.runtime import GATEWAY_URL_ENV, Runtime
from tests.jobs.conftest import Workers, job_when

SCENARIO = """
name: a few chats
duration_s: 1
drain_s: 5
tenants:
  - name: acme
    model: acme/support
    arrivals: {kind: closed, users: 2}
"""
FULL = b'{"error": {"code": "queue_full"}}'


@pytest.mark.parametrize(
    ("host", "named", "url"),
    [
        ("0.0.0.0", "", "http://127.0.0.1:9/v1"),
        ("::1", "", "http://[::1]:9/v1"),
        ("0.0.0.0", "http://gateway:8000", "http://gateway:8000/v1"),
        ("127.0.0.1", "https://bots.example/", "https://bots.example/v1"),
    ],
)
def test_where_the_gateway_is(host: str, named: str, url: str) -> None:
    assert gateway_url(GatewayConfig(host=host, port=9), {GATEWAY_URL_ENV: named}) == url


async def test_the_gateway_of_another_machine_is_loaded(
    connection: Connection, runtime: Runtime, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _full_gateway() as url:
        monkeypatch.setenv(GATEWAY_URL_ENV, url)
        job = await _loadtest(connection, runtime, workers)
    assert job.state is JobState.SUCCEEDED, job.error
    job_result: Any = job.result
    assert set(job_result["figures"]["total"]["reasons"]) == {"429 queue_full"}


async def test_a_test_that_reached_nobody_has_failed(
    connection: Connection, runtime: Runtime, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _full_gateway() as url:
        monkeypatch.setenv(GATEWAY_URL_ENV, url)
    job = await _loadtest(connection, runtime, workers)  # nobody listens there any more
    assert job.state is JobState.FAILED
    assert f"No chat reached the gateway at {url}/v1 (" in str(job.error)
    assert " x connection refused)" in str(job.error)
    assert GATEWAY_URL_ENV in str(job.error)


async def _loadtest(connection: Connection, runtime: Runtime, workers: Workers) -> StoredJob:
    await seed(connection, runtime)
    workers.start()
    job = await Jobs(connection).create("loadtest", "", {"scenario": SCENARIO}, by="test", now_s=time.time())
    return await job_when(connection, job.id)


@asynccontextmanager
async def _full_gateway() -> AsyncIterator[str]:
    """One that has no room for any chat."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 Full\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(FULL), FULL))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"http://{host}:{port}"
