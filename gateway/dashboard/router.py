"""The dashboard's pages and the parts that they poll.

    GET  /                                    what goes on now
    GET  /dashboard/login, POST               with an admin key
    POST /dashboard/logout
    GET  /dashboard/parts/now                 the live part of /, once a second
    GET  /dashboard/series?after=             the charts' samples
    GET  /dashboard/waiting/{tenant}          who waits there, and why
    GET  /dashboard/explain?chat=             why one chat waits, runs or was refused
    GET  /dashboard/static/{file}

`controls` adds what changes things, `playground` the chat, `inbox` visitors' conversations. Every page but the login
needs a session; every change needs its CSRF token, too.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from functools import cache
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute

from gateway.admin.schemas import Job, Me, Overview, Page, Session
from gateway.dashboard import view
from gateway.dashboard.admin_client import AdminClient, AdminRefused
from gateway.dashboard.jobs import row
from gateway.dashboard.logins import COOKIE, Login, Logins
from gateway.dashboard.recorder import Recorder
from gateway.dashboard.render import page
from gateway.dashboard.security import HEADERS, check_same_site, is_secure
from gateway.outcomes import OUTCOME_HEADER, Code, Refused
from gateway.state import Gateway
from gateway.widget.router import Widgets
from services.contracts.explanation import Explanation
from services.devices.card import bandwidths
from services.store.bandwidth import read_measured
from services.store.connection import QueueUnavailable

FORM_BYTES_MAX = 4096
JOBS_SHOWN = 4
WAITING_SHOWN = 20
STATIC = {
    "base.css": "text/css",
    "parts.css": "text/css",
    "pages.css": "text/css",
    "uplot.min.css": "text/css",
    "inbox.css": "text/css",
    "quality.css": "text/css",
    "app.js": "text/javascript",
    "early.js": "text/javascript",
    "charts.js": "text/javascript",
    "inbox.js": "text/javascript",
    "playground.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "uplot.min.js": "text/javascript",
    "inter.woff2": "font/woff2",
    "mark.svg": "image/svg+xml",
    "LICENSES.txt": "text/plain",
}
NO_KEY = {OUTCOME_HEADER.decode(): Code.INVALID_API_KEY.value}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class LoginNeeded(Exception):
    """There is no session, or its key was revoked."""


class Dashboard:
    """What all routes share."""

    def __init__(self, gateway: Gateway, admin: AdminClient, widgets: Widgets) -> None:
        self.gateway = gateway
        self.widgets = widgets
        self.admin = admin
        self.sessions = Logins(gateway.connection, gateway.secrets.pepper, gateway.clock)
        self.recorder = Recorder(gateway.submissions, gateway.metrics, gateway.clock)

    async def session(self, request: Request) -> Login:
        """Who asks. Raises LoginNeeded, QueueUnavailable."""
        found = await self.sessions.find(request.cookies.get(COOKIE))
        if found is None:
            raise LoginNeeded
        return found

    async def now(self, session: Login, template: str) -> Response:
        """The page Now, or its part. Raises AdminRefused, QueueUnavailable."""
        found, engines, jobs, measured = await asyncio.gather(
            self.admin.get(session.key, "/overview", Overview),
            self.gateway.submissions.engines(),
            self.admin.get(session.key, "/jobs", Page[Job], limit=str(JOBS_SHOWN)),
            read_measured(self.gateway.connection),
        )
        reports = {name: engine.report for name, engine in engines.items()}
        most = bandwidths(self.gateway.config, measured, [device.id for device in found.devices])
        now = view.now(found, reports, most)
        return page(template, page="Now", now=now, jobs=[row(job) for job in jobs.items], session=session)

    async def explained(self, session: Login, chat: str) -> Explanation:
        """Why a chat waits, runs or was refused. Raises AdminRefused, QueueUnavailable."""
        return await self.admin.get(session.key, f"/scheduler/explain/{quote(chat, safe='')}", Explanation)


class PageRoute(APIRoute):
    """Errors as pages, or as parts where htmx asks."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (LoginNeeded, AdminRefused, Refused, RequestValidationError, QueueUnavailable) as error:
                return told(request, error)

        return handled


def router(dashboard: Dashboard) -> APIRouter:
    """Login and all that only reads."""
    routes = APIRouter(route_class=PageRoute, include_in_schema=False)
    _login(routes, dashboard)
    _live(routes, dashboard)
    _explain(routes, dashboard)

    @routes.get("/dashboard/static/{name}")
    async def static(request: Request, name: str) -> Response:
        if name not in STATIC:
            raise Refused(Code.NOT_FOUND, f"There is no file {name!r}.")
        body, tag = _file(name)
        headers = HEADERS | {"etag": tag, "cache-control": "public, max-age=0, must-revalidate"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=STATIC[name], headers=headers)

    return routes


def _login(routes: APIRouter, dashboard: Dashboard) -> None:
    sessions = dashboard.sessions

    @routes.get("/dashboard/login")
    async def login_page(next: str = "/") -> Response:
        return page("login.html", problem=None, next=_own_path(next))

    @routes.post("/dashboard/login")
    async def login(request: Request) -> Response:
        check_same_site(request)
        form = await form_of(request)
        following = _own_path(form.get("next", "/"))
        address = request.client.host if request.client else ""
        await sessions.count_try(address)
        key = form.get("key", "").strip()
        try:
            me = await dashboard.admin.get(key, "/me", Me) if key.isascii() and key.isprintable() else None
        except AdminRefused as refused:
            me = None
            if refused.status not in (401, 403):
                raise
        if me is None:
            answer = page("login.html", 401, problem="This admin key is not valid on this host.", next=following)
            answer.headers.update(NO_KEY)
            return answer
        await sessions.succeeded(address)
        onwards = RedirectResponse(following, 303, HEADERS)
        onwards.set_cookie(
            COOKIE,
            await sessions.begin(key, me.name, me.role),
            httponly=True,
            samesite="strict",
            secure=is_secure(request),
        )
        return onwards

    @routes.post("/dashboard/logout")
    async def logout(request: Request) -> Response:
        check_same_site(request)
        session = await dashboard.session(request)
        if (await form_of(request)).get("csrf") == session.csrf:
            await sessions.end(request.cookies.get(COOKIE))
        answer = RedirectResponse("/dashboard/login", 303, HEADERS)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=is_secure(request))
        return answer


def _live(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.get("/")
    async def now(request: Request) -> Response:
        return await dashboard.now(await dashboard.session(request), "now.html")

    @routes.get("/dashboard/parts/now")
    async def part(request: Request) -> Response:
        return await dashboard.now(await dashboard.session(request), "parts/now.html")

    @routes.get("/dashboard/series")
    async def series(request: Request, after: Annotated[float, Query(ge=0)] = 0.0) -> Response:
        await dashboard.session(request)
        return JSONResponse(dashboard.recorder.series(after), headers=HEADERS)


def _explain(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.get("/dashboard/waiting/{tenant}")
    async def waiting(request: Request, tenant: str) -> Response:
        session = await dashboard.session(request)
        found = await dashboard.admin.get(session.key, "/sessions", Page[Session], tenant=tenant, limit="200")
        chats = [(seen.session, chat) for seen in found.items for chat in seen.chats if chat.state == "waiting"]
        chats.sort(key=lambda pair: pair[1].since_s)
        shown = chats[:WAITING_SHOWN]
        told = await asyncio.gather(
            *(dashboard.explained(session, chat.chat) for _, chat in shown),
        )
        rows = [(name, why) for (name, _), why in zip(shown, told, strict=True)]
        return page("parts/waiting.html", tenant=tenant, rows=rows, more=len(chats) - len(shown))

    @routes.get("/dashboard/explain")
    async def explain(request: Request, chat: Annotated[str, Query(max_length=80)]) -> Response:
        session = await dashboard.session(request)
        return page("parts/explained.html", chat=await dashboard.explained(session, chat.strip()))


@cache
def _file(name: str) -> tuple[bytes, str]:
    body = files("gateway.dashboard").joinpath("static", name).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'


async def form_of(request: Request, bytes_max: int = FORM_BYTES_MAX) -> dict[str, str]:
    """A small urlencoded form. Raises Refused where it is larger."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > bytes_max:
            raise Refused(Code.BODY_TOO_LARGE, f"The form is larger than {bytes_max} bytes.")
    return dict(parse_qsl(bytes(body).decode("utf-8", "replace")))


def _own_path(path: str) -> str:
    """A path of this host, and of no other: what follows a login must not lead away."""
    fine = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and "\\" not in path
    return path if fine else "/"


def told(request: Request, error: Exception) -> Response:
    """What went wrong, as a page or as a part."""
    part = "hx-request" in request.headers
    if isinstance(error, LoginNeeded) or (isinstance(error, AdminRefused) and error.status == 401):
        return _to_login(request, part)
    if isinstance(error, AdminRefused):
        return _problem(error.status, str(error), error.error.code, part, error.error.job)
    if isinstance(error, RequestValidationError):
        return _problem(422, str(error.errors()[0]["msg"]), Code.INVALID_VALUE, part)
    if not isinstance(error, Refused):
        error = Refused(Code.QUEUE_UNAVAILABLE, "Redis does not answer right now. Try again soon.")
    answer = _problem(error.row.status, error.message, error.counted_as, part)
    answer.headers.update({name.decode(): value.decode() for name, value in error.headers()})
    return answer


def _to_login(request: Request, part: bool) -> Response:
    if part:
        return Response(status_code=401, headers=HEADERS | {"hx-redirect": "/dashboard/login", **NO_KEY})
    following = quote(request.url.path) if request.method == "GET" else "/"
    return RedirectResponse(
        f"/dashboard/login?next={following}" if following != "/" else "/dashboard/login", 303, HEADERS
    )


def _problem(status: int, words: str, code: str, part: bool, job: str | None = None) -> Response:
    answer = page("parts/problem.html" if part else "problem.html", status, words=words, job=job)
    answer.headers[OUTCOME_HEADER.decode()] = code
    return answer
