"""SIGTERM with streams open: no new chats, /ready says no at once, and what does not finish is handed over."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from time import monotonic

import httpx
import pytest

from services.process.ports import free_port
from tests.faults.harness.audit import audit
from tests.faults.harness.client import Client, Outcome
from tests.faults.harness.load import Load, http_client, jobs
from tests.faults.harness.scene import PATIENCE_S, FaultScene, supervised

DRAIN_S = 3.0
CHATS = 20


async def _refuses(scene: FaultScene) -> set[str]:
    """What new chats and /ready are answered until the gateway is gone."""
    observed: set[str] = set()
    while True:
        try:
            ready = await scene.http.get(f"{scene.url}/ready")
            observed.add(f"ready {ready.status_code}")
            body = {"model": "acme/support", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
            headers = scene.headers("acme")
            answer = await scene.http.post(f"{scene.url}/v1/chat/completions", headers=headers, json=body)
            observed.add(
                answer.json()["error"]["code"] if answer.status_code == 503 else f"status {answer.status_code}"
            )
        except httpx.TransportError:
            return observed
        await asyncio.sleep(0.05)


@pytest.mark.timeout(400)
async def test_a_host_that_is_told_to_stop_loses_nothing(tmp_path: Path) -> None:
    """The clients go on asking; the next host on the same folder answers them."""
    port, began_s = free_port(), monotonic()
    async with http_client() as http:
        async with supervised(tmp_path, port=port, drain_s=DRAIN_S) as first:
            client = Client(http, lambda: first.url, first.headers, PATIENCE_S)
            load = Load(client, jobs(CHATS, 20.0, "drain", tokens=(64, 128)))
            await load.streaming()
            assert first.host is not None
            first.host.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                while (await first.http.get(f"{first.url}/ready")).status_code == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            refused = await _refuses(first)
            await asyncio.to_thread(first.host.process.wait, 60)
        assert "ready 200" not in refused
        assert not {one for one in refused if one.startswith("status")}, refused
        async with supervised(tmp_path, port=port, drain_s=DRAIN_S) as second:
            observed = await load.all()
            async with second.redis_now() as connection:
                figures = await audit("drain", observed, connection, monotonic() - began_s)
    print(figures.line())
    assert figures.good, figures.line()
    assert all(one.outcome is Outcome.ANSWERED for one in observed)
