"""Ask a running engine to change its sessions' precision: the client, without torch.

The plugin listens on a Unix socket in SGLang's scheduler process. One line of JSON a request, one line back:

    {"op": "demote" | "promote", "rid": "..." | "salt": "..." | "all": true}
        -> {"freed_bytes": 123, "tokens": 45, "sessions": 1}
    {"op": "report"} -> {"tokens": {"4": n, "8": n}, "bytes": {...}, "slots": {"total", "used", "free"}, ...}

A request that makes no sense is answered with {"error": "..."}.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

ANSWER_S_MAX = 10.0  # the scheduler answers between two steps; a long prefill on a CPU takes seconds
LINE_BYTES_MAX = 1 << 20

JsonObject = dict[str, Any]  # one line of the protocol


class ControlError(Exception):
    """The engine could not be reached in time, or refused the request."""


class ControlClient:
    """A connection a request to the socket at `path`. Methods raise ControlError."""

    def __init__(self, path: str, timeout_s: float = ANSWER_S_MAX) -> None:
        self.path, self.timeout_s = path, timeout_s

    async def ask(self, **request: Any) -> JsonObject:
        """Send one request and return the engine's answer."""
        try:
            return await asyncio.wait_for(self._exchange(request), self.timeout_s)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError) as error:  # noqa: UP041 - 3.10
            raise ControlError(f"kvplanes control at {self.path}: {error or type(error).__name__}") from error

    async def _exchange(self, request: JsonObject) -> JsonObject:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=LINE_BYTES_MAX)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            answer = json.loads(await reader.readuntil(b"\n"))
        finally:
            writer.close()
            await writer.wait_closed()
        if not isinstance(answer, dict) or "error" in answer:
            raise ControlError(f"kvplanes refused {request.get('op')!r}: {answer}")
        return answer

    async def demote(self, *, rid: str | None = None, salt: str | None = None) -> JsonObject:
        """Lower one request, one tenant, or everyone to 4 bits, at once."""
        return await self.ask(op="demote", **_target(rid, salt))

    async def promote(self, *, rid: str | None = None, salt: str | None = None) -> JsonObject:
        """Raise one request, one tenant, or everyone to 8 bits, for tokens from now on."""
        return await self.ask(op="promote", **_target(rid, salt))

    async def report(self) -> JsonObject:
        """Tokens by precision, bytes and slots."""
        return await self.ask(op="report")


def _target(rid: str | None, salt: str | None) -> JsonObject:
    if rid is not None:
        return {"rid": rid}
    return {"salt": salt} if salt is not None else {"all": True}
