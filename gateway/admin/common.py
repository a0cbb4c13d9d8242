"""What the resources share: the gateway behind a request, audit notes, the error answers of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import JsonValue

from gateway.admin.auth import GATEWAY, Actor
from gateway.admin.errors import NotFound
from gateway.admin.strict import StrictRoute
from gateway.state import Gateway
from services.config.schema import BotConfig
from services.store.audit_log import Note, record
from services.store.registry import Registry, TenantRecord

DESCRIPTIONS = {
    400: "A value that cannot be used; names the parameter.",
    401: "No admin key, or one that is not valid.",
    403: "The key's role may not do this.",
    404: "Not found.",
    409: "Not possible in the present state; `job` names a job in progress.",
    413: "The body is too large.",
    415: "The Content-Type is not application/json.",
    503: "Redis or the scheduler does not answer.",
}
# By reference, and not as `model`: that would build a validator for each of them in each route.
_PROBLEM = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {"description": words, "content": _PROBLEM} for status, words in DESCRIPTIONS.items()
}


def routes(tag: str) -> APIRouter:
    """A router for one resource."""
    return APIRouter(tags=[tag], route_class=StrictRoute, responses=PROBLEMS)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.scope[GATEWAY]
    return gateway


Host = Annotated[Gateway, Depends(_gateway)]


def note(gateway: Gateway, actor: Actor, action: str, target: str, *, before: Any = None, after: Any = None) -> Note:
    """An entry of the audit log."""
    return Note(gateway.clock(), actor.name, actor.role, action, target, actor.request, before, after)


async def noted(gateway: Gateway, entry: Note) -> None:
    """Write an entry down. Raises QueueUnavailable."""
    await record(gateway.connection, entry)


def tenant_of(registry: Registry, name: str) -> TenantRecord:
    """Raises NotFound."""
    record_found = registry.tenants.get(name)
    if record_found is None:
        raise NotFound(f"There is no tenant {name!r}.", param="tenant")
    return record_found


def bot_of(registry: Registry, tenant: str, name: str) -> BotConfig:
    """Raises NotFound."""
    found = tenant_of(registry, tenant).config.bots.get(name)
    if found is None:
        raise NotFound(f"The tenant {tenant!r} has no bot {name!r}.", param="bot")
    return found


def merged(target: Mapping[str, JsonValue], patch: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """RFC 7396: objects are merged, null removes a member, anything else replaces it."""
    found = dict(target)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, dict):
            inner = found.get(name)
            found[name] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            found[name] = value
    return found
