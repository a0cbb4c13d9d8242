"""The admin API as one ASGI application beside the chat API. Its OpenAPI document is /admin/v1/openapi.json."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from gateway.admin import (
    admins,
    audit,
    bot_kv,
    bot_tests,
    bots,
    conversations,
    figures,
    handovers,
    jobs,
    keys,
    knowledge,
    models,
    scheduler,
    sessions,
    tenants,
    usage,
)
from gateway.admin.auth import GATEWAY, REQUEST
from gateway.admin.errors import add_handlers
from gateway.admin.schemas import Problem
from gateway.call import Receive, Scope, Send
from gateway.state import Gateway

__all__ = ["PREFIX", "REQUEST", "admin_app"]

PREFIX = "/admin"
V1 = "/admin/v1"
ABOUT = (
    "Tenants, keys, bots, models and their KV precision, sessions, jobs, usage and the audit log of one host. "
    "Times are Unix seconds, memory is bytes."
)
RESOURCES = (
    tenants,
    keys,
    bots,
    bot_kv,
    bot_tests,
    figures,
    knowledge,
    models,
    sessions,
    jobs,
    usage,
    audit,
    scheduler,
    handovers,
    conversations,
    admins,
)


def router() -> APIRouter:
    """All resources under /admin/v1."""
    found = APIRouter()
    for resource in RESOURCES:
        found.include_router(resource.router, prefix=V1)
    found.include_router(scheduler.explain_router, prefix=V1)
    found.include_router(scheduler.explain_router, prefix=PREFIX, include_in_schema=False)
    return found


class AdminApi:
    """The admin API of one gateway: an ASGI application. What does not depend on the gateway is built once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.fastapi = application()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[GATEWAY] = self._gateway
        await self.fastapi(scope, receive, send)


def admin_app(gateway: Gateway) -> AdminApi:
    """The application for one gateway process."""
    return AdminApi(gateway)


@cache
def application() -> FastAPI:
    """Routes and errors. Takes a fraction of a second to build."""
    app = FastAPI(
        title="Bunkhouse admin API",
        version="1",
        description=ABOUT,
        openapi_url=f"{V1}/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation,
    )
    add_handlers(app)
    app.include_router(router())
    build = app.openapi

    def openapi() -> dict[str, Any]:
        document = build()
        schema = models_json_schema([(Problem, "validation")], ref_template="#/components/schemas/{model}")[1]
        document["components"]["schemas"].update(schema["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return app


def _operation(route: APIRoute) -> str:
    tag = route.tags[0] if route.tags else "admin"
    return f"{tag}_{route.name}"
