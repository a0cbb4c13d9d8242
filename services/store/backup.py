"""What only Redis knows, as one document: tenants with their bots and keys, admin keys, usage.

Chats, sessions and measurements are left out: they end, or come again. Keys are digests under the host's pepper, so a
document is of use only with the same secrets.json.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from services.store import usage_report
from services.store.admin_keys import StoredAdmin, admin_keys, keep_admin_key
from services.store.audit_log import Note
from services.store.connection import Connection
from services.store.registry import Registry
from services.store.registry_edit import edit, read_registry
from services.store.usage_report import UsageCounts

FIRST_DAY, LAST_DAY = "0000-00-00", "9999-99-99"


class BadBackup(Exception):
    """A document that cannot be imported here. The message says why."""


class Backup(BaseModel):
    """The document. `pepper` identifies the pepper of its keys, without telling it; `exported_s` is Unix time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    exported_s: float
    pepper: str
    registry: Registry
    admins: tuple[StoredAdmin, ...] = ()
    usage: tuple[UsageCounts, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """How much was imported. Rows of usage whose counters exist already are left alone."""

    tenants: int
    admins: int
    usage_rows: int
    usage_rows_left: int


async def export(connection: Connection, pepper: bytes, now_s: float) -> Backup:
    """Everything that is to outlive Redis. Raises QueueUnavailable."""
    return Backup(
        exported_s=now_s,
        pepper=_fingerprint(pepper),
        registry=await read_registry(connection),
        admins=tuple(await admin_keys(connection)),
        usage=tuple(await usage_report.rows(connection, FIRST_DAY, LAST_DAY)),
    )


def parse(data: bytes, pepper: bytes) -> Backup:
    """A document for the host with this pepper. Raises BadBackup."""
    try:
        backup = Backup.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadBackup(
            f"it is not an export of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    if backup.pepper != _fingerprint(pepper):
        raise BadBackup("its keys were made with other secrets; put the secrets.json of that host in place first")
    return backup


async def restore(connection: Connection, backup: Backup, now_s: float) -> Restored:
    """Add a document's tenants, admin keys and usage. A tenant or admin key of the same name is replaced.

    Twice gives the same as once. Raises TooManyEdits, QueueUnavailable.
    """

    def put_back(registry: Registry) -> tuple[Registry, Note]:
        tenants = registry.tenants | backup.registry.tenants
        gone = {name: seed for name, seed in backup.registry.deleted.items() if name not in tenants}
        deleted = {name: seed for name, seed in registry.deleted.items() if name not in tenants} | gone
        names = ", ".join(sorted(backup.registry.tenants))
        note = Note(now_s, "bunkhouse import", "owner", "tenant.import", names)
        return registry.model_copy(update={"tenants": tenants, "deleted": deleted}), note

    await edit(connection, put_back)
    for admin in backup.admins:
        await keep_admin_key(connection, admin)
    stored = [await usage_report.restore_row(connection, row) for row in backup.usage]
    return Restored(len(backup.registry.tenants), len(backup.admins), stored.count(True), stored.count(False))


def _fingerprint(pepper: bytes) -> str:
    return hashlib.sha256(b"bunkhouse export " + pepper).hexdigest()[:16]
