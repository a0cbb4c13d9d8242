"""Bodies as the admin API takes them: bounded, JSON by the book, numbers that every part of the host can hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.admin.errors import AdminError

BODY_BYTES_MAX = 2 * 2**20
JSON_TYPES = ("application/json", "application/merge-patch+json")
NUMBER_MAX = 2**53  # JSON, Lua and JavaScript hold integers up to here


class TooLarge(AdminError):
    """A body that nobody means."""

    status = 413
    code = "request_too_large"


class WrongType(AdminError):
    """A body that is no JSON by its own word."""

    status = 415
    code = "unsupported_media_type"


class StrictRequest(Request):
    """Refuses what Python's own parser lets pass: NaN, Infinity, lone surrogates, numbers beyond 2**53."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            parts = bytearray()
            async for chunk in self.stream():
                parts += chunk
                if len(parts) > BODY_BYTES_MAX:
                    raise TooLarge(f"The body is larger than {BODY_BYTES_MAX} bytes.")
            self._body = bytes(parts)
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, error.doc, error.pos) from None
        _check_numbers(value)
        return value


class StrictRoute(APIRoute):
    """A route whose bodies are read so. A body needs `Content-Type: application/json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if self.body_field is not None and given not in JSON_TYPES:
                raise WrongType(f"Content-Type must be application/json, not {given!r}.")
            read = StrictRequest(request.scope, request.receive)
            await read.body()  # here: FastAPI would turn what it raises into a 400
            return await handler(read)

        return strict


def _check_numbers(value: Any) -> None:
    if isinstance(value, (int, float)) and abs(value) > NUMBER_MAX:
        raise json.JSONDecodeError("a number is larger than 2**53", "", 0)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        _check_numbers(part)
