"""Engines as their workers describe them, and the scheduler's snapshot of them all.

Another version may have written either. Keys that this version does not know are dropped. A record that it cannot read
is left out and logged once, and hides no other one.
"""

from __future__ import annotations

from collections.abc import Collection

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from services.contracts.engines import EngineView
from services.contracts.snapshot import ModelSnapshot, Snapshot
from services.store import redis_keys as keys
from services.store.connection import Connection, translated

_ENGINE = TypeAdapter(EngineView)
_MODEL = TypeAdapter(ModelSnapshot)
_SNAPSHOT = TypeAdapter(Snapshot)

log = structlog.get_logger()


def decode_engine(data: bytes) -> EngineView:
    """One value of `bh:engines`. Raises pydantic's ValidationError."""
    return _ENGINE.validate_json(data)


class EngineRecords:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unread: set[str] = set()  # logged already

    async def engines(self) -> dict[str, EngineView]:
        """Facts and last report of each model's engine."""
        with translated():
            stored = await self._connection.redis.hgetall(keys.ENGINES)
        found = {}
        for name, data in stored.items():
            try:
                found[name.decode()] = decode_engine(data)
            except ValidationError as error:
                self._log("engines.not_read", name.decode(), error)
            else:
                self._unread.discard(f"engines.not_read {name.decode()}")
        return found

    async def snapshot(self) -> Snapshot | None:
        """What the scheduler last saw. None when no scheduler runs, or when its snapshot cannot be read."""
        with translated():
            data = await self._connection.redis.get(keys.SNAPSHOT)
        if data is None:
            return None
        try:
            stored = orjson.loads(data)
            models, unread = self._models(stored["models"])
            found = _SNAPSHOT.validate_python({**stored, "models": models, "unread": unread})
        except (LookupError, TypeError, AttributeError, ValueError) as error:  # ValidationError is a ValueError
            self._log("snapshot.not_read", "", error)
            return None
        if not found.unread:
            self._unread = {logged for logged in self._unread if not logged.startswith("snapshot")}
        return found

    async def progress(self) -> dict[str, str]:
        """What each model's engine does while it starts, in words."""
        with translated():
            stored = await self._connection.redis.hgetall(keys.PROGRESS)
        return {name.decode(): words.decode() for name, words in stored.items()}

    async def give_up(self, models: Collection[str]) -> None:
        """Say that nobody starts these models' workers again, be it for their engines. The scheduler ends their chats;
        a worker that comes up takes it back."""
        if models:
            with translated():
                await self._connection.redis.sadd(keys.GIVEN_UP, *models)

    async def given_up(self) -> set[str]:
        """Models and providers that are not tried again before the host or their worker is started anew."""
        with translated():
            return {name.decode() for name in await self._connection.redis.smembers(keys.GIVEN_UP)}

    async def forget_run(self, models: Collection[str]) -> None:
        """Forget what an earlier run of the host said, and engines of models that are not among `models`."""
        with translated():
            await self._connection.redis.delete(keys.PROGRESS, keys.GIVEN_UP)
            gone = [name for name in await self._connection.redis.hkeys(keys.ENGINES) if name.decode() not in models]
            if gone:
                await self._connection.redis.hdel(keys.ENGINES, *gone)

    def _models(self, stored: dict[str, object]) -> tuple[dict[str, ModelSnapshot], list[str]]:
        models, unread = {}, []
        for name, values in stored.items():
            try:
                models[name] = _MODEL.validate_python(values)
            except ValidationError as error:
                unread.append(name)
                self._log("snapshot.not_read", name, error)
        return models, unread

    def _log(self, event: str, model: str, error: Exception) -> None:
        if f"{event} {model}" not in self._unread:
            log.warning(event, model=model, why=repr(error))
            self._unread.add(f"{event} {model}")
