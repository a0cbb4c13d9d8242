"""What the resources share: the gateway behind a request, audit notes, the error answers of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from gateway.admin.auth import Actor
from gateway.admin.errors import NotFound
from gateway.admin.schemas import Problem
from gateway.admin.strict import StrictRoute
from gateway.state import Gateway
from services.audit import Note, record
from services.config import BotConfig
from services.registry import Registry, TenantRecord

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "A value that cannot be used; names the parameter."},
    401: {"model": Problem, "description": "No admin key, or one that is not valid."},
    403: {"model": Problem, "description": "The key's role may not do this."},
    404: {"model": Problem, "description": "No such thing."},
    409: {"model": Problem, "description": "Not as things are now; `job` names the job in the way."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is no JSON by its Content-Type."},
    503: {"model": Problem, "description": "Redis or the scheduler does not answer."},
}


def routes(tag: str) -> APIRouter:
    """A router for one resource."""
    return APIRouter(tags=[tag], route_class=StrictRoute, responses=PROBLEMS)


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
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
