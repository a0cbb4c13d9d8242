"""Changes of the registry: read, change, store with its audit entry in one step, again if somebody else was first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from services.store.audit_log import Note
from services.store.connection import Connection
from services.store.registry import Registry, TenantRecord
from services.store.submission import read_registry, write_registry

TRIES_MAX = 20
PAUSE_S_MAX = 0.05

Change = Callable[[Registry], tuple[Registry, Note] | None]


class TooManyEdits(Exception):
    """Somebody else was first, every time."""


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
