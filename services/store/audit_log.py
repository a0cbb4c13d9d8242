"""Who changed what, when, from what to what: one Redis stream, written in the same step as a registry change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from services.process.logs import MASK, secret_name
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

ENTRIES_MAX = 100_000  # about: the stream is trimmed in whole blocks
READ_MAX = 1000  # entries in one round trip


@dataclass(frozen=True, slots=True)
class Note:
    """One change. `before` and `after` are what JSON can hold; None: it was, or is, not there."""

    at_s: float
    who: str
    role: str
    action: str  # "tenant.change", "key.revoke", ...
    target: str
    request: str = ""
    before: Any = None
    after: Any = None

    def encoded(self) -> bytes:
        """As it is stored, secrets masked."""
        values = asdict(self) | {"before": _plain(self.before), "after": _plain(self.after)}
        return orjson.dumps(values)


@dataclass(frozen=True, slots=True)
class Entry:
    """A note in its place: `id` grows with time."""

    id: str
    note: Note


async def record(connection: Connection, note: Note) -> None:
    """Write down a change that is not one of the registry's. Raises QueueUnavailable."""
    with translated():
        await connection.redis.xadd(keys.AUDIT, {"d": note.encoded()}, maxlen=ENTRIES_MAX, approximate=True)


async def record_action(connection: Connection, note: Note) -> None:
    """Write down a call of a bot's action, in a stream of its own: visitors must not push changes out of the other.

    Raises QueueUnavailable.
    """
    with translated():
        await connection.redis.xadd(keys.ACTIONS, {"d": note.encoded()}, maxlen=ENTRIES_MAX, approximate=True)


async def entries(
    connection: Connection, since_s: float, until_s: float, most: int, *, actions: bool = False
) -> AsyncIterator[Entry]:
    """Changes, or calls of `actions`. Newest first, at most `most`. The stream's own clock orders them.

    Raises QueueUnavailable.
    """
    stream = keys.ACTIONS if actions else keys.AUDIT
    end, left = f"{int(until_s * 1000)}", most
    while left > 0:
        with translated():
            batch = await connection.redis.xrevrange(
                stream, max=end, min=f"{int(since_s * 1000)}", count=min(left, READ_MAX)
            )
        for place, values in batch:
            yield Entry(place.decode(), Note(**orjson.loads(values[b"d"])))
        if len(batch) < min(left, READ_MAX):
            return
        left -= len(batch)
        end = f"({batch[-1][0].decode()}"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(name): MASK if _secret(str(name)) else _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _secret(name: str) -> bool:
    return name == "digest" or secret_name(name)
