"""A tenant's API keys. Each is shown once, when it is made; a revoked one stops working with the next chat."""

from __future__ import annotations

import secrets
from typing import Any, TypedDict

from fastapi import status

from gateway.admin.auth import Operator, Viewer
from gateway.admin.common import Host, note, routes, tenant_of
from gateway.admin.errors import Conflict, NotFound
from gateway.admin.schemas import ApiKey, ApiKeyShown, KeyNew, KeyRotate, Page
from gateway.state import Gateway
from services.config.api_keys import digest, new_key, ready_id
from services.store.registry import KeyRecord, Registry, TenantRecord
from services.store.registry_edit import edit, read_registry, with_tenant

KEYS_MAX = 100  # of one tenant

router = routes("keys")


@router.get("/tenants/{tenant}/keys")
async def index(tenant: str, host: Host, _: Viewer) -> Page[ApiKey]:
    """A tenant's keys, without the keys themselves. Those that have expired are left out."""
    record, now_s = tenant_of(await read_registry(host.connection), tenant), host.clock()
    return Page(items=[_shown(tenant, key) for key in _valid(record, now_s)])


@router.post("/tenants/{tenant}/keys", status_code=status.HTTP_201_CREATED)
async def create(tenant: str, new: KeyNew, host: Host, actor: Operator) -> ApiKeyShown:
    """A new key. The key is shown only in this answer."""
    now_s = host.clock()
    made, key = _make(host, tenant, None if new.expires_in_s is None else now_s + new.expires_in_s)

    def change(registry: Registry) -> tuple[Registry, Any]:
        record = tenant_of(registry, tenant)
        fresh = record.model_copy(update={"keys": (*_valid(record, now_s), _room(record, now_s, made))})
        entry = note(host, actor, "key.create", f"{tenant}/{made.id}", after=_plain(made))
        return with_tenant(registry, tenant, fresh), entry

    await edit(host.connection, change)
    return ApiKeyShown(**_plain(made), tenant=tenant, key=key)


@router.post("/tenants/{tenant}/keys/{key}/rotate", status_code=status.HTTP_201_CREATED)
async def rotate(tenant: str, key: str, how: KeyRotate, host: Host, actor: Operator) -> ApiKeyShown:
    """A new key in place of an old one, which works on for `overlap_s`. The new one has no expiry."""
    now_s = host.clock()
    made, shown = _make(host, tenant, None)
    ends_s = now_s + how.overlap_s

    def change(registry: Registry) -> tuple[Registry, Any]:
        record = tenant_of(registry, tenant)
        old = _find(record, tenant, key, now_s)
        ending = old.model_copy(update={"expires_s": min(ends_s, old.expires_s or ends_s)})
        others = tuple(other for other in _valid(record, now_s) if other.id != key)
        fresh = record.model_copy(
            update={
                "keys": (*others, *((ending,) if how.overlap_s else ()), _room(record, now_s, made)),
                "ready": record.ready and key != ready_id(tenant),
            }
        )
        entry = note(
            host, actor, "key.rotate", f"{tenant}/{key}", before=_plain(old), after=[_plain(ending), _plain(made)]
        )
        return with_tenant(registry, tenant, fresh), entry

    await edit(host.connection, change)
    return ApiKeyShown(**_plain(made), tenant=tenant, key=shown)


@router.delete("/tenants/{tenant}/keys/{key}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke(tenant: str, key: str, host: Host, actor: Operator) -> None:
    """Revoke a key at once. Chats that it began are finished."""

    def change(registry: Registry) -> tuple[Registry, Any]:
        record = tenant_of(registry, tenant)
        old = _find(record, tenant, key, host.clock())
        fresh = record.model_copy(
            update={
                "keys": tuple(other for other in record.keys if other.id != key),
                "ready": record.ready and key != ready_id(tenant),
            }
        )
        return with_tenant(registry, tenant, fresh), note(
            host, actor, "key.revoke", f"{tenant}/{key}", before=_plain(old)
        )

    await edit(host.connection, change)


def _make(host: Gateway, tenant: str, expires_s: float | None) -> tuple[KeyRecord, str]:
    key = new_key()
    record = KeyRecord(
        id=f"{tenant}-{secrets.token_hex(4)}",
        digest=digest(key, host.secrets.pepper),
        created_s=host.clock(),
        expires_s=expires_s,
    )
    return record, key


def _valid(record: TenantRecord, now_s: float) -> tuple[KeyRecord, ...]:
    return tuple(key for key in record.keys if key.expires_s is None or key.expires_s > now_s)


def _room(record: TenantRecord, now_s: float, made: KeyRecord) -> KeyRecord:
    if len(_valid(record, now_s)) >= KEYS_MAX:
        raise Conflict(f"A tenant has at most {KEYS_MAX} keys. Revoke one first.", code="too_many")
    return made


def _find(record: TenantRecord, tenant: str, key: str, now_s: float) -> KeyRecord:
    found = next((known for known in _valid(record, now_s) if known.id == key), None)
    if found is None:
        raise NotFound(f"The tenant {tenant!r} has no key {key!r}.", param="key")
    return found


class PlainKey(TypedDict):
    """A key without its digest, as the audit log keeps it."""

    id: str
    created_s: float
    expires_s: float | None


def _plain(key: KeyRecord) -> PlainKey:
    return PlainKey(id=key.id, created_s=key.created_s, expires_s=key.expires_s)


def _shown(tenant: str, key: KeyRecord) -> ApiKey:
    return ApiKey(**_plain(key), tenant=tenant)
