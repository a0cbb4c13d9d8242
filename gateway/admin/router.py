"""The admin API as one ASGI application beside the chat API. Its OpenAPI document is /admin/v1/openapi.json."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from gateway.admin import admins, audit, bot_kv, bots, jobs, keys, models, scheduler, sessions, tenants, usage
from gateway.admin.errors import add_handlers
from gateway.state import Gateway

PREFIX = "/admin"
V1 = "/admin/v1"
ABOUT = (
    "Tenants, keys, bots, models and their KV precision, sessions, jobs, usage and the audit log of one host. "
    "Times are Unix seconds, memory is bytes."
)
RESOURCES = (tenants, keys, bots, bot_kv, models, sessions, jobs, usage, audit, scheduler, admins)


def takes(path: str) -> bool:
    """Whether a path is the admin API's."""
    return path.startswith(f"{PREFIX}/")


def router() -> APIRouter:
    """All resources under /admin/v1."""
    found = APIRouter()
    for resource in RESOURCES:
        found.include_router(resource.router, prefix=V1)
    found.include_router(scheduler.explain_router, prefix=V1)
    found.include_router(scheduler.explain_router, prefix=PREFIX, include_in_schema=False)
    return found


def admin_app(gateway: Gateway) -> FastAPI:
    """The application for one gateway process."""
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
    app.state.gateway = gateway
    add_handlers(app)
    app.include_router(router())
    return app


def _operation(route: APIRoute) -> str:
    tag = route.tags[0] if route.tags else "admin"
    return f"{tag}_{route.name}"
