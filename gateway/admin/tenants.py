"""Tenants: make, change, delete. A deleted tenant's keys die at once; chats that wait or run are finished."""

from __future__ import annotations

from typing import Any

from fastapi import status

from gateway.admin.auth import Operator, Owner, Viewer
from gateway.admin.common import Host, note, routes, tenant_of
from gateway.admin.errors import BadValue, Conflict
from gateway.admin.schemas import Page, Tenant, TenantChange, TenantNew, TenantUse
from gateway.state import Gateway
from services.config.schema import TenantConfig
from services.store.bot_tests import BotTestStore
from services.store.knowledge import KnowledgeStore
from services.store.registry import Registry, TenantRecord
from services.store.registry_edit import edit, read_registry, with_tenant
from services.store.usage_report import day_now, rows

router = routes("tenants")


@router.get("/tenants")
async def index(host: Host, _: Viewer) -> Page[Tenant]:
    """All tenants, with what they hold now."""
    registry, uses = await read_registry(host.connection), await _uses(host)
    return Page(items=[_shown(name, record, uses) for name, record in sorted(registry.tenants.items())])


@router.post("/tenants", status_code=status.HTTP_201_CREATED)
async def create(new: TenantNew, host: Host, actor: Operator) -> Tenant:
    """A new tenant, without keys or bots."""
    record = TenantRecord(config=TenantConfig(weight=new.weight, limits=new.limits))

    def change(registry: Registry) -> tuple[Registry, Any]:
        if new.name in registry.tenants:
            raise Conflict(f"The tenant {new.name!r} exists.", code="exists", param="name")
        return with_tenant(registry, new.name, record), note(
            host, actor, "tenant.create", new.name, after=record.config
        )

    await edit(host.connection, change)
    return _shown(new.name, record, await _uses(host))


@router.get("/tenants/{tenant}")
async def show(tenant: str, host: Host, _: Viewer) -> Tenant:
    """One tenant."""
    record = tenant_of(await read_registry(host.connection), tenant)
    return _shown(tenant, record, await _uses(host))


@router.patch("/tenants/{tenant}")
async def change(tenant: str, wanted: TenantChange, host: Host, actor: Operator) -> Tenant:
    """Change the weight or limits by a JSON merge patch (RFC 7396): limits that are left out stay, null removes one.

    A limit below present use lets running chats finish and new ones wait.
    """
    changes = wanted.model_dump(exclude_unset=True)
    if any(changes.get(name, 0) is None for name in ("weight", "limits")):
        raise BadValue("Leave out what stays unchanged; null is not allowed here.", param="weight")

    def apply(registry: Registry) -> tuple[Registry, Any]:
        record = tenant_of(registry, tenant)
        limits = record.config.limits.model_copy(update=changes.get("limits"))
        config = record.config.model_copy(update={**changes, "limits": limits})
        fresh = record.model_copy(update={"config": config})
        entry = note(host, actor, "tenant.change", tenant, before=_changeable(record), after=_changeable(fresh))
        return with_tenant(registry, tenant, fresh), entry

    record = (await edit(host.connection, apply)).tenants[tenant]
    return _shown(tenant, record, await _uses(host))


@router.delete("/tenants/{tenant}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(tenant: str, host: Host, actor: Owner) -> None:
    """Delete a tenant with its keys and bots. Its usage stays."""

    def change(registry: Registry) -> tuple[Registry, Any]:
        record = tenant_of(registry, tenant)
        bots.extend(f"{tenant}/{bot}" for bot in record.config.bots)
        return with_tenant(registry, tenant, None), note(host, actor, "tenant.delete", tenant, before=record.config)

    bots: list[str] = []
    await edit(host.connection, change)
    await KnowledgeStore(host.connection).clear(*bots)
    await BotTestStore(host.connection).clear(*bots)


def _changeable(record: TenantRecord) -> TenantChange:
    return TenantChange(weight=record.config.weight, limits=record.config.limits)


async def _uses(host: Gateway) -> dict[str, TenantUse]:
    """What tenants hold now. The month's tokens are those of the usage counters."""
    snapshot = await host.submissions.snapshot()
    waits = await host.submissions.waiting_by_tenant()
    today = day_now(host.clock())
    month: dict[str, int] = {}
    for row in await rows(host.connection, f"{today[:8]}01", today):
        month[str(row.tenant)] = month.get(str(row.tenant), 0) + row.prompt_tokens + row.completion_tokens
    running = snapshot.chats_per_tenant if snapshot else {}
    reserved = snapshot.kv_bytes_per_tenant if snapshot else {}
    return {
        name: TenantUse(
            chats_running=running.get(name, 0),
            chats_waiting=waits.get(name, 0),
            kv_bytes_reserved=reserved.get(name, 0),
            tokens_this_month=month.get(name, 0),
        )
        for name in {*running, *reserved, *waits, *month}
    }


def _shown(name: str, record: TenantRecord, uses: dict[str, TenantUse]) -> Tenant:
    limits, use = record.config.limits, uses.get(name, TenantUse())
    held = {
        "chats_max": (limits.chats_max, use.chats_running),
        "kv_bytes_max": (limits.kv_bytes_max, use.kv_bytes_reserved),
        "tokens_per_month": (limits.tokens_per_month, use.tokens_this_month),
    }
    return Tenant(
        name=name,
        weight=record.config.weight,
        limits=limits,
        bots=sorted(f"{name}/{bot}" for bot in record.config.bots),
        keys=len(record.keys),
        use=use,
        over=[limit for limit, (most, now) in held.items() if most is not None and now > most],
    )
