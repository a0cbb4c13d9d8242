"""Client and server of the control socket, over a real socket."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.kvplanes.control import ControlClient, ControlError
from services.kvplanes.server import ControlServer


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer like the scheduler's side: with what was asked, or refusing."""
    if request["op"] == "bad":
        raise ValueError("no such thing")
    return {"freed_bytes": 7, "asked": request}


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "control.sock")
    server = ControlServer(path, handle)
    done = threading.Event()

    def scheduler() -> None:
        while not done.wait(0.002):
            server.poll()

    thread = threading.Thread(target=scheduler)
    thread.start()
    yield path
    done.set()
    thread.join()
    server.close()


async def test_requests_reach_the_scheduler(socket: str) -> None:
    client = ControlClient(socket)
    assert (await client.demote(rid="r1"))["asked"] == {"op": "demote", "rid": "r1"}
    assert (await client.demote(salt="s"))["asked"] == {"op": "demote", "salt": "s"}
    assert (await client.promote())["asked"] == {"op": "promote", "all": True}
    answers = await asyncio.gather(*(client.report() for _ in range(20)))
    assert all(answer["freed_bytes"] == 7 for answer in answers)


async def test_refusals_and_silence_are_errors(socket: str, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no such thing"):
        await ControlClient(socket).ask(op="bad")
    with pytest.raises(ControlError, match="nowhere"):
        await ControlClient(str(tmp_path / "nowhere")).report()


def test_only_the_owner_may_connect(socket: str) -> None:
    assert stat.S_IMODE(Path(socket).stat().st_mode) == 0o600
