"""What a gateway knows of tenants and bots."""

from __future__ import annotations

import asyncio

import pytest

from services.store.registry import Registry

from .conftest import Host


async def test_whoever_changed_the_registry_reads_that_change(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen once in a busy run: a read that had begun before the change was shared, and the bot stayed as it was."""
    submissions, began, go_on = host.state.submissions, asyncio.Event(), asyncio.Event()
    read = submissions.registry

    async def slow() -> Registry:
        found = await read()
        began.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(submissions, "registry", slow)
    before = asyncio.create_task(host.state.directory.reload())
    await began.wait()
    await host.change(lambda registry: registry)
    monkeypatch.setattr(submissions, "registry", read)
    after = [asyncio.create_task(host.state.directory.reload()) for _ in range(3)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(before, *after)
    assert host.state.directory.version == 2
