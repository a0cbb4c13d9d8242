"""The admin API, asked in process with the operator's own key: the dashboard can do what its user may, and no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from gateway.admin.schemas import ErrorBody, Problem
from gateway.call import Receive, Scope, Send

BASE = "http://gateway.internal/admin/v1"
ASK_S_MAX = 20.0

Query = dict[str, str]
Shape = TypeVar("Shape")


class AdminRefused(Exception):
    """The admin API refused."""

    def __init__(self, status: int, error: ErrorBody) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class AdminClient:
    """A client of the admin API without a network between."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, timeout=ASK_S_MAX)

    async def ask(
        self, key: str, method: str, path: str, shape: type[Shape], *, body: object = None, query: Query | None = None
    ) -> Shape:
        """The answer as a `shape`. Raises AdminRefused."""
        answer = await self._asked(key, method, path, body, query)
        return TypeAdapter(shape).validate_json(answer.content)

    async def get(self, key: str, path: str, shape: type[Shape], **query: str) -> Shape:
        """GET. Raises AdminRefused."""
        return await self.ask(key, "GET", path, shape, query=query or None)

    async def text(self, key: str, path: str, **query: str) -> bytes:
        """GET of text that is not JSON. Raises AdminRefused."""
        return (await self._asked(key, "GET", path, None, query)).content

    async def send(self, key: str, method: str, path: str, body: object = None) -> None:
        """A change whose answer is empty. Raises AdminRefused."""
        await self._asked(key, method, path, body, None)

    async def _asked(self, key: str, method: str, path: str, body: object, query: Query | None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        answer = await self._http.request(method, BASE + path, headers=headers, params=query, json=body)
        if answer.is_success:
            return answer
        try:
            error = Problem.model_validate_json(answer.content).error
        except ValidationError:
            code = f"http_{answer.status_code}"
            error = ErrorBody(message=f"The admin API answered {answer.status_code}.", type="api_error", code=code)
        raise AdminRefused(answer.status_code, error)

    async def __aenter__(self) -> AdminClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
