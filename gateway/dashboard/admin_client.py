"""The admin API, asked in process with the operator's own key: the dashboard can do what its user may, and no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import httpx

from gateway.call import Receive, Scope, Send

BASE = "http://gateway.internal/admin/v1"
ASK_S_MAX = 20.0


class AdminRefused(Exception):
    """The admin API said no. `error` is its `{message, type, param, code, ...}`."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", status)))
        self.status = status
        self.error = error
        self.code = str(error.get("code", f"http_{status}"))


class AdminClient:
    """A client of the admin API without a network between."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, timeout=ASK_S_MAX)

    async def ask(
        self, key: str, method: str, path: str, *, body: object = None, query: dict[str, str] | None = None
    ) -> Any:
        """The answer's JSON; None for 204. Raises AdminRefused."""
        answer = await self._asked(key, method, path, body, query)
        return answer.json() if answer.content else None

    async def get(self, key: str, path: str, **query: str) -> Any:
        """GET. Raises AdminRefused."""
        return await self.ask(key, "GET", path, query=query or None)

    async def text(self, key: str, path: str, **query: str) -> bytes:
        """GET of what is no JSON. Raises AdminRefused."""
        return (await self._asked(key, "GET", path, None, query)).content

    async def _asked(
        self, key: str, method: str, path: str, body: object, query: dict[str, str] | None
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        answer = await self._http.request(method, BASE + path, headers=headers, params=query, json=body)
        if answer.is_success:
            return answer
        try:
            error = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            error = {"message": f"The admin API answered {answer.status_code}."}
        raise AdminRefused(answer.status_code, error)

    async def __aenter__(self) -> AdminClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
