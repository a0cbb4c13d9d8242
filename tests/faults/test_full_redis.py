"""A whole host whose Redis was full for a while: what stalled then must not cost the chats that come afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import yaml

from services.store.connection import Connection
from tests.faults.harness.scene import config, own_redis
from tests.host_process import HostProcess, run_host

FULL_S = 10.0  # longer than the scheduler's lease
LONG, SHORT = 80, 16  # tokens of an answer
CROWD = 40  # short chats at once; eight run side by side, and all are done in seconds
DEADLINE_S = 20.0  # by the pace of chats of which each took more than 10 s, a queue of 16 would not meet it


async def test_chats_after_a_full_redis_are_not_refused_for_the_stall(tmp_path: Path) -> None:
    """70 of 150 were, within 52 ms, for a deadline that all would have met."""
    settings = config(tmp_path / "data", 0)
    settings["tenants"]["acme"]["bots"]["support"] |= {"queue_wait_s_max": DEADLINE_S}
    path = tmp_path / "host.yaml"
    path.write_text(yaml.safe_dump(settings))
    with own_redis(tmp_path / "redis") as (_, port):
        url = f"redis://127.0.0.1:{port}"
        with run_host(tmp_path / "data", path, BUNKHOUSE_REDIS_URL=url, BUNKHOUSE__REDIS__URL=url) as host:
            stalled, crowd = await _chats_around_a_full_redis(host, Connection(url))
    assert stalled == {"length": 8}
    assert crowd == {"length": CROWD}


async def _chats_around_a_full_redis(host: HostProcess, redis: Connection) -> tuple[Counter[str], Counter[str]]:
    """How chats that ran meanwhile ended, and those that came when the first of them was done."""
    async with httpx.AsyncClient(timeout=60.0, limits=httpx.Limits(max_connections=None)) as client:
        stalled = [asyncio.create_task(_ask(client, host, LONG)) for _ in range(8)]
        while await redis.redis.xlen("bh:ready:one") < len(stalled):  # noqa: ASYNC110  (Redis is asked)
            await asyncio.sleep(0.01)
        await redis.redis.config_set("maxmemory", 1)
        await asyncio.sleep(FULL_S)
        await redis.redis.config_set("maxmemory", 0)
        await asyncio.wait(stalled, return_when=asyncio.FIRST_COMPLETED)
        crowd = await asyncio.gather(*(_ask(client, host, SHORT) for _ in range(CROWD)))
        await redis.close()
        return Counter(await asyncio.gather(*stalled)), Counter(crowd)


async def _ask(client: httpx.AsyncClient, host: HostProcess, tokens: int) -> str:
    """Why the answer ended, or the error's code."""
    body = {
        "model": "acme/support",
        "messages": [{"role": "user", "content": "Count to 100."}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    answer = await client.post(f"{host.url}/v1/chat/completions", headers=host.headers("acme"), json=body)
    found = answer.json()
    return str(found["error"]["code"] if "error" in found else found["choices"][0]["finish_reason"])
