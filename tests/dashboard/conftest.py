"""A whole host with prepared engines, and a browser's worth of HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from tests.browser.stage import Stage, staged


@dataclass
class Operator:
    """Somebody at the dashboard. `http` keeps the cookies."""

    stage: Stage
    http: httpx.AsyncClient

    async def log_in(self, key: str | None = None, **headers: str) -> httpx.Response:
        return await self.http.post(
            "/dashboard/login",
            data={"key": self.stage.secrets.admin_key if key is None else key},
            headers={"origin": self.stage.url, **headers},
        )

    async def csrf(self) -> str:
        page = await self.http.get("/")
        found = re.search(r'name="csrf" content="([0-9a-f]{64})"', page.text)
        assert found, page.text[:500]
        return found[1]

    async def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        """As the page's own scripts do."""
        own = {"origin": self.stage.url, "x-csrf-token": await self.csrf(), "hx-request": "true"}
        return await self.http.post(path, json=body, headers=own | headers)


@pytest.fixture
async def operator(redis_url: str) -> AsyncIterator[Operator]:
    async with staged(redis_url) as stage, httpx.AsyncClient(base_url=stage.url, timeout=20.0) as http:
        yield Operator(stage, http)
