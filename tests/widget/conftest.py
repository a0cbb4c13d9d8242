"""A whole host with prepared engines, and a client that speaks as a page of an allowed shop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from gateway.widget.sites import token_of
from tests.browser.stage import Stage, staged

BOT = "alder-ash/shop"


@dataclass
class Page:
    """A shop's page. `origin` is what its browser says."""

    stage: Stage
    http: httpx.AsyncClient
    token: str
    origin: str

    @property
    def base(self) -> str:
        return f"{self.stage.url}/widget/v1/{self.token}"

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return await self.http.post(f"{self.base}/{path}", json=body, headers={"origin": self.origin, **headers})

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(f"{self.base}/{path}", headers={"origin": self.origin, **headers})

    async def say(self, text: str, session: str | None = None) -> dict[str, str]:
        answer = await self.post("messages", {"text": text, "session": session})
        assert answer.status_code == 202, answer.text
        asked: dict[str, str] = answer.json()
        return asked

    async def read(self, chat: str, after: str | None = None, texts_max: int | None = None) -> list[dict[str, Any]]:
        """Events of one connection: `{id, event, data}`; up to `texts_max` texts."""
        headers = {"origin": self.origin, **({"last-event-id": after} if after else {})}
        events: list[dict[str, Any]] = []
        async with self.http.stream("GET", f"{self.base}/chats/{chat}/stream", headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            event: dict[str, Any] = {}
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name in ("id", "event"):
                    event[name] = value
                elif name == "data":
                    event["data"] = orjson.loads(value)
                elif not line and "data" in event:
                    events.append(event)
                    event = {}
                    if texts_max is not None and len(events) >= texts_max:
                        break
        return events


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["data"].get("text", "") for event in events)


@pytest.fixture
async def page(redis_url: str) -> AsyncIterator[Page]:
    """The demo shop on the host itself."""
    async with (
        staged(redis_url, webhook="http://127.0.0.1:9/nobody-listens") as stage,
        httpx.AsyncClient(timeout=20.0) as http,
    ):
        yield Page(stage, http, token_of(BOT, 1, stage.secrets.pepper), stage.url)
