"""The ASGI application: the outermost error handler, one log line a request, start and stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from gateway import cors, routes
from gateway.admin import router as admin
from gateway.call import Call, ClientGone, Receive, Scope, Send
from gateway.dashboard import pages
from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from services.store.connection import QueueUnavailable

QUIET = frozenset({"/health", "/ready", "/metrics"})

log = structlog.get_logger()


class App:
    """One gateway process. `state` is made at start-up by `opened`, a context manager in gateway.main."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._opened = opened
        self.state: Gateway | None = None
        self._pages: pages.Pages | None = None
        self._admin: admin.AdminApi | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and self.state is not None:
            await self._http(self.state, Call(scope, receive, send))
        else:
            await send({"type": "websocket.close"})

    async def _http(self, gateway: Gateway, call: Call) -> None:
        gateway.open_requests += 1
        try:
            await self._answered(gateway, call)
        except ClientGone:
            call.label = "client_gone"
        finally:
            gateway.open_requests -= 1
            gateway.metrics.requests.labels(call.route, str(call.status), call.label).inc()
            if call.route not in QUIET:
                log.info(
                    "request",
                    request=call.request_id,
                    method=call.method,
                    route=call.route,
                    status=call.status,
                    outcome=call.label,
                    ms=round(call.elapsed_s * 1000, 1),
                    tenant=call.tenant,
                    chat=call.chat,
                )

    async def _answered(self, gateway: Gateway, call: Call) -> None:
        bounds = gateway.config.gateway
        bytes_max, read_s_max = bounds.body_bytes_max, bounds.request_read_s_max
        try:
            if self._admin is not None and call.path.startswith(f"{admin.PREFIX}/"):
                call.scope[admin.REQUEST] = call.request_id
                await call.forward(self._admin, "admin", bytes_max=bytes_max, read_s_max=read_s_max)
            elif self._pages is not None and (call.path == "/" or call.path.startswith(pages.PREFIXES)):
                bytes_max = pages.body_bytes_max(call.path, bytes_max)
                call.always += self._pages.headers(call.path, call.scope)
                await call.forward(self._pages, "pages", bytes_max=bytes_max, read_s_max=read_s_max)
            else:
                call.always += cors.headers(call, bounds.cors_origins)
                if cors.is_preflight(call):
                    await cors.preflight(call)
                else:
                    await routes.find(call).handler(gateway, call)
        except Refused as refused:
            await call.refuse(refused)
        except QueueUnavailable as error:
            log.warning("queues.unavailable", request=call.request_id, why=str(error))
            await call.refuse(Refused(Code.QUEUE_UNAVAILABLE, "Redis does not answer. Try again soon."))
        except ClientGone:
            raise
        except Exception:  # the process's outermost handler: one request's bug must not take others down
            log.exception("request.failed", request=call.request_id, route=call.route)
            call.label = Code.INTERNAL.value
            if call.status:
                raise
            await call.refuse(
                Refused(Code.INTERNAL, "An internal error occurred. It was logged under this request's x-request-id.")
            )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._opened() as state, pages.opened(state) as self._pages:
                self._admin = admin.admin_app(state)
                self.state = state
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            log.exception("gateway.failed")
            step = "startup" if self.state is None else "shutdown"
            await send({"type": f"lifespan.{step}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})
