"""A client that asks again with the same Idempotency-Key gets the same chat, whatever happened to the first try."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.harness.scene import PATIENCE_S, FaultScene, supervised

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[FaultScene]:
    async with supervised(tmp_path) as running:
        yield running


async def ask(scene: FaultScene, key: str) -> httpx.Response:
    """A whole chat, asked for until a gateway answers."""
    body = {
        "model": "acme/support",
        "messages": [{"role": "user", "content": "Count from 1 to 60, separated by commas."}],
        "max_tokens": 48,
        "temperature": 1.5,  # a second answer would be another one
    }
    headers = scene.headers("acme") | {"Idempotency-Key": key}
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                answer: httpx.Response = await scene.http.post(
                    f"{scene.url}/v1/chat/completions", headers=headers, json=body
                )
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            if answer.status_code == 200:
                return answer


def said(answer: httpx.Response) -> tuple[str, Any]:
    return answer.headers["x-bunkhouse-chat"], answer.json()["choices"]


async def test_retries_get_the_same_chat(scene: FaultScene) -> None:
    """At the same time, afterwards, and over the death of the gateway that took the first try."""
    at_once = await asyncio.gather(*(ask(scene, "at-once") for _ in range(5)))
    assert len({said(answer)[0] for answer in at_once}) == 1
    assert all(said(answer) == said(at_once[0]) for answer in at_once)
    assert said(await ask(scene, "at-once")) == said(at_once[0])

    first = asyncio.create_task(ask(scene, "killed"))
    await asyncio.sleep(0.5)
    await scene.kill("gateway")
    assert said(await first) == said(await ask(scene, "killed"))
    assert said(await first)[0] != said(at_once[0])[0]
