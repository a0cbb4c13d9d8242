"""Changes of the registry: read, change, store with its audit entry in one step, again if somebody else was first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from services.config.schema import STORED, Config
from services.store import redis_keys as keys
from services.store.audit_log import ENTRIES_MAX, Note
from services.store.connection import Connection, translated
from services.store.registry import Registry, TenantRecord, seeded

TRIES_MAX = 20
PAUSE_S_MAX = 0.05

Change = Callable[[Registry], tuple[Registry, Note] | None]


class TooManyEdits(Exception):
    """Somebody else was first, every time."""


async def read_registry(connection: Connection) -> Registry:
    """The stored registry; empty when there is none yet."""
    with translated():
        document = await connection.redis.hget(keys.REGISTRY, "document")
    return Registry.model_validate_json(document, context=STORED) if document else Registry()


async def write_registry(connection: Connection, old_version: int, new: Registry, audit: bytes = b"") -> bool:
    """Store a changed registry, and an entry of the audit log with it (services.store.audit_log), or neither.

    False when somebody changed it since `old_version`.
    """
    answer = await connection.script(
        "registry",
        [keys.REGISTRY, keys.AUDIT],
        [old_version, new.version, new.model_dump_json(), keys.REGISTRY_HINTS, audit, ENTRIES_MAX],
    )
    return bool(answer == b"ok")


async def registry_version(connection: Connection) -> int:
    """Version of the stored registry, 0 when there is none. Raises QueueUnavailable."""
    with translated():
        return int(await connection.redis.hget(keys.REGISTRY, "version") or 0)


async def seed(connection: Connection, config: Config, pepper: bytes, now_s: float) -> None:
    """Bring the stored registry up to the configuration. Raises QueueUnavailable."""
    stored = False
    while not stored:
        current = await read_registry(connection)
        stored = await write_registry(connection, current.version, seeded(current, config, pepper, now_s))


async def restore(connection: Connection, registry: Registry, now_s: float) -> bool:
    """Write back a registry that Redis has lost, as a version that no process has seen. False: it is there.

    Raises QueueUnavailable.
    """
    fresh = registry.model_copy(update={"version": max(registry.version + 1, int(now_s))})
    return await write_registry(connection, 0, fresh)


async def edit(connection: Connection, change: Change) -> Registry:
    """Apply `change` to the registry as it is; None from it leaves things alone, and what it raises comes through.

    Raises TooManyEdits, QueueUnavailable.
    """
    for _ in range(TRIES_MAX):
        current = await read_registry(connection)
        changed = change(current)
        if changed is None:
            return current
        fresh = changed[0].model_copy(update={"version": current.version + 1})
        if await write_registry(connection, current.version, fresh, changed[1].encoded()):
            return fresh
        await asyncio.sleep(random.uniform(0, PAUSE_S_MAX))
    raise TooManyEdits(f"The registry was changed by others {TRIES_MAX} times in a row. Try again.")


def with_tenant(registry: Registry, name: str, record: TenantRecord | None) -> Registry:
    """The registry with one tenant put in, or taken out (and remembered as deleted)."""
    tenants, deleted = dict(registry.tenants), dict(registry.deleted)
    if record is None:
        deleted[name] = tenants.pop(name).seed
    else:
        tenants[name] = record
        deleted.pop(name, None)
    return registry.model_copy(update={"tenants": tenants, "deleted": deleted})
