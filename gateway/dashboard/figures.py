"""A bot's weekly figures, and what it did not answer, with a way to each answer.

GET  /dashboard/figures?bot=                        the page
GET  /dashboard/figures.json, /dashboard/figures/{faq.md|tests.yaml}?bot=   the same as files
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from gateway.admin.figures import BotFigures
from gateway.admin.schemas import Bot, Page
from gateway.dashboard.render import page
from gateway.dashboard.router import Dashboard, PageRoute
from gateway.dashboard.security import HEADERS

GROUPS_SHOWN = 50
BotQuery = Annotated[str, Query(pattern=r"^[a-z0-9._-]{1,63}/[a-z0-9._-]{1,63}$")]


def router(dashboard: Dashboard) -> APIRouter:
    """The page and its files."""
    routes = APIRouter(route_class=PageRoute, include_in_schema=False)

    @routes.get("/dashboard/figures")
    async def figures(request: Request, bot: Annotated[str, Query(max_length=200)] = "") -> Response:
        session = await dashboard.session(request)
        found = await dashboard.admin.get(session.key, "/bots", Page[Bot])
        bots = [each.id for each in found.items if each.config.widget is not None]
        chosen = bot or (bots[0] if bots else "")
        shown = await dashboard.admin.get(session.key, f"{_path(chosen)}/figures", BotFigures) if chosen else None
        return page("figures.html", page="Figures", session=session, bots=bots, found=shown, shown=GROUPS_SHOWN)

    @routes.get("/dashboard/figures.json")
    async def as_json(request: Request, bot: BotQuery) -> Response:
        session = await dashboard.session(request)
        body = await dashboard.admin.text(session.key, f"{_path(bot)}/figures")
        return Response(body, media_type="application/json", headers=HEADERS)

    @routes.get("/dashboard/figures/{name}")
    async def draft(request: Request, name: Literal["faq.md", "tests.yaml"], bot: BotQuery) -> Response:
        session = await dashboard.session(request)
        body = await dashboard.admin.text(session.key, f"{_path(bot)}/unanswered", format=name.partition(".")[0])
        headers = HEADERS | {"content-disposition": f'attachment; filename="{name}"'}
        return Response(body, media_type="text/plain", headers=headers)

    return routes


def _path(bot: str) -> str:
    tenant, _, name = bot.partition("/")
    return f"/bots/{quote(tenant, safe='')}/{quote(name, safe='')}"
