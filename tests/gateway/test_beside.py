"""A task that must not end ends the gateway, and its supervisor starts it again."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from gateway.directory import Directory
from gateway.widget.handover import Outbox

from .conftest import HostFactory
from .driver import until


@pytest.fixture
def terminated() -> Iterator[list[int]]:
    """SIGTERMs that this process got."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def _stumble(self: object) -> None:
    raise RuntimeError("nobody thought of this")


@pytest.mark.parametrize(("kind", "name"), [(Outbox, "run"), (Directory, "watch")])
async def test_a_task_that_ends_ends_the_gateway(
    hosts: HostFactory, terminated: list[int], monkeypatch: pytest.MonkeyPatch, kind: type, name: str
) -> None:
    monkeypatch.setattr(kind, name, _stumble)
    async with hosts():
        await until(lambda: terminated)


async def test_a_gateway_that_ends_ends_its_tasks_in_silence(hosts: HostFactory, terminated: list[int]) -> None:
    async with hosts():
        pass
    assert not terminated
