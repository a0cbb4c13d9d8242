"""The widget's script, and a small shop that a widget can be tried in with the files it needs."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from gateway.outcomes import Code, Refused
from gateway.widget.script import read, script
from gateway.widget.sites import WidgetSite

SCRIPT_KEEP_S = 300
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KINDS = {"css": "text/css", "svg": "image/svg+xml"}
FILES = frozenset({"demo.css", "bowl.svg", "board.svg", "spoons.svg", "mill.svg"})


def add(routes: APIRouter, demo: Callable[[], WidgetSite | None]) -> None:
    """Add /widget.js, /widget/demo and what the page loads."""

    @routes.get("/widget.js", include_in_schema=False)
    async def widget_js(request: Request) -> Response:
        body, tag = script()
        headers = {
            "etag": tag,
            "cache-control": f"public, max-age={SCRIPT_KEEP_S}",
            "cross-origin-resource-policy": "cross-origin",
            "x-content-type-options": "nosniff",
        }
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="text/javascript", headers=headers)

    @routes.get("/widget/demo", include_in_schema=False)
    async def page() -> HTMLResponse:
        site = demo()
        body = read("demo.html") if site else read("demo_off.html")
        body = body.replace("{{token}}", escape(site.token if site else ""))
        headers = {
            "content-security-policy": CSP,
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",
        }
        return HTMLResponse(body, 200 if site else 404, headers)

    @routes.get("/widget/demo/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in FILES:
            raise Refused(Code.NOT_FOUND, "This file does not exist.")
        return Response(read(name), media_type=KINDS[name.rpartition(".")[2]], headers={"cache-control": "max-age=300"})
