"""Dashboard and widget as one ASGI application beside the chat API, and what runs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from gateway import background
from gateway.admin.router import admin_app
from gateway.call import Header, Receive, Scope, Send
from gateway.dashboard import controls, figures, inbox, playground, router
from gateway.dashboard.admin_client import AdminClient
from gateway.dashboard.router import Dashboard, told
from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from gateway.widget.router import BODY_BYTES_MAX, Widgets, refusal
from gateway.widget.router import router as widget_router

WIDGET, MAIL = "/widget", "/widget/v1/mail-replies/"  # a mail may carry pictures
PREFIXES = ("/dashboard", WIDGET)


def body_bytes_max(path: str, most: int) -> int:
    """How large the body of a request to a page may be, where `most` is the gateway's bound."""
    return min(most, BODY_BYTES_MAX) if path.startswith(WIDGET) and not path.startswith(MAIL) else most


class Pages:
    """All pages of one gateway process: an ASGI application."""

    def __init__(self, gateway: Gateway, admin: AdminClient) -> None:
        self.widgets = Widgets(gateway)
        self.dashboard = Dashboard(gateway, admin, self.widgets)
        self._app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        for part in (router, controls, playground, inbox, figures):
            self._app.include_router(part.router(self.dashboard))
        self._app.include_router(widget_router(self.widgets))
        self._app.add_exception_handler(HTTPException, _untaken)

    def headers(self, path: str, scope: Scope) -> list[Header]:
        """Of every answer on this path, also those that the gateway gives itself, as to a body that is too large."""
        return self.widgets.cors(path, Headers(scope=scope))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _untaken(request: Request, error: Exception) -> Response:
    """What no route takes, or FastAPI cannot read, in the form in which routes say their errors: a page to people, JSON
    to the widget."""
    known = error if isinstance(error, HTTPException) else HTTPException(404)
    headers = tuple((name.encode(), value.encode()) for name, value in (known.headers or {}).items())
    if known.status_code == 400:
        refused = Refused(Code.INVALID_JSON, "The request body is not valid JSON.", headers=headers)
    else:
        words = f"{request.method} {request.url.path} does not exist."
        refused = Refused(Code.METHOD if known.status_code == 405 else Code.NOT_FOUND, words, headers=headers)
    return refusal(refused) if request.url.path.startswith(WIDGET) else told(request, refused)


@asynccontextmanager
async def opened(gateway: Gateway) -> AsyncIterator[Pages]:
    """The pages, with everything that runs beside their requests."""
    async with AdminClient(admin_app(gateway)) as admin:
        pages = Pages(gateway, admin)
        outbox = background.begin(pages.widgets.outbox.run())
        charts = asyncio.create_task(pages.dashboard.recorder.run())  # a gateway without charts still serves chats
        try:
            yield pages
        finally:
            await background.end([*outbox, charts])
            await pages.widgets.answers.close()
