"""Memory and fairness on the real host: the ledger's bounds hold, and one tenant's flood does not drown another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
import yaml

from tests.end_to_end import streams
from tests.end_to_end.streams import Heard
from tests.host_process import LAPTOP, HostProcess, run_host

TIMEOUT = httpx.Timeout(120)


CHATS_MAX = 4


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """The laptop example with both tenants on one model."""
    folder = tmp_path_factory.mktemp("shares")
    config = yaml.safe_load(LAPTOP.read_text())
    config["models"] = {"one": config["models"]["smollm2-kv8"] | {"chats_max": CHATS_MAX, "context_tokens": 512}}
    for tenant in config["tenants"].values():
        for bot in tenant["bots"].values():
            bot["model"] = "one"
    path = folder / "host.yaml"
    path.write_text(yaml.safe_dump(config))
    with run_host(folder / "data", path) as running:
        yield running


async def test_ten_chats_in_memory_for_four(shared: HostProcess) -> None:
    """Four run, six wait, all are answered, and the ledger ends at zero."""
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        metrics: list[str] = []

        async def watch() -> None:
            while True:
                metrics.append((await client.get(f"{shared.url}/metrics")).text)
                await asyncio.sleep(0.25)

        watching = asyncio.create_task(watch())
        chats = [streams.chat(client, shared, "acme", f"Count to {n}.", max_tokens=60) for n in range(10)]
        heard = await asyncio.gather(*chats)
        watching.cancel()
        assert all(item.done and not item.error for item in heard)
        for item in heard:
            item.check()
        async with asyncio.timeout(30):
            while _gauge((await client.get(f"{shared.url}/metrics")).text, "bunkhouse_kv_reserved_bytes"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    running = [_gauge(text, "bunkhouse_chats_running") for text in metrics]
    waiting = [_gauge(text, "bunkhouse_chats_waiting") for text in metrics]
    assert max(running) == CHATS_MAX
    assert any('kind="predicted"' in text for text in metrics), "the machine's bandwidth was measured at the start"
    # A look may fall between the ten's arrival and the first decision: then all ten wait.
    assert (CHATS_MAX, 10 - CHATS_MAX) in zip(running, waiting, strict=True)


async def test_a_flood_of_one_tenant_is_overtaken_by_another(shared: HostProcess) -> None:
    """A quiet tenant's chats, one after the other, are all answered while most of the flood still waits.

    In chats, not in seconds: a busy machine serves a part of the flood before it has sent the rest.
    """
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=100)) as client:
        flood = [
            asyncio.create_task(streams.chat(client, shared, "acme", f"Count to {n}.", max_tokens=40))
            for n in range(32)
        ]
        async with asyncio.timeout(30):
            seen = 0.0
            while seen + sum(chat.done() for chat in flood) < 32:  # all have arrived
                metrics = (await client.get(f"{shared.url}/metrics")).text
                seen = sum(_gauge(metrics, f"bunkhouse_chats_{state}") for state in ("waiting", "running"))
        open_before = sum(not chat.done() for chat in flood)
        quiet = [await streams.chat(client, shared, "globex", "Hello there.", max_tokens=8) for _ in range(3)]
        still_open = sum(not chat.done() for chat in flood)
        heard: list[Heard] = await asyncio.gather(*flood)
    assert [item.error for item in [*quiet, *heard] if item.error or not item.done] == []
    assert 0 < still_open >= open_before - 12, "no more than four of the flood for each quiet one"


def _gauge(text: str, name: str) -> float:
    """Sum of a gauge over its labels."""
    return sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith(name) and line[len(name)] in "{ "
    )
