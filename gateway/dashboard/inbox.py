"""Conversations for people: the inbox of those that wait, the list of all, and one of them to read and answer.

GET  /dashboard/inbox[/{tenant}/{bot}/{session}]          who waits, and the one that is open
GET  /dashboard/conversations[/{tenant}/{bot}/{session}]  all, with search and filters
GET  /dashboard/conversations.{json|csv}                  the same as a file
GET  /dashboard/parts/{inbox|inbox-count|said/...}        the live parts
POST /dashboard/talks/{tenant}/{bot}/{session}/{reply|typing|hand-back|close|delete|delete-visitor}
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from gateway.admin.conversation_schemas import (
    ConversationFilter,
    ConversationListed,
    ConversationRead,
    ConversationsDeleted,
)
from gateway.admin.schemas import Bot, Page
from gateway.dashboard.controls import changing
from gateway.dashboard.logins import Login
from gateway.dashboard.render import page
from gateway.dashboard.router import Dashboard, PageRoute, form_of
from gateway.dashboard.security import HEADERS

SHOWN = 50
OPEN_SHOWN = 200
EXPORTED = 1000
REPLY_BYTES_MAX = 64_000  # 4,000 characters as a form writes them
FILTERS: dict[ConversationFilter, str] = {
    "all": "All",
    "unanswered": "Unanswered",
    "rated_down": "Rated down",
    "handed_over": "Handed over",
}
Talk = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{32}$")]
Listing = Page[ConversationListed]


def router(dashboard: Dashboard) -> APIRouter:
    """All of it."""
    routes = APIRouter(route_class=PageRoute, include_in_schema=False)
    _inbox(routes, dashboard)
    _conversations(routes, dashboard)
    _changes(routes, dashboard)
    return routes


def path_of(tenant: str, bot: str, session: str) -> str:
    """Of a conversation, in the admin API."""
    return f"/conversations/{quote(tenant, safe='')}/{quote(bot, safe='')}/{quote(session, safe='')}"


async def _open(dashboard: Dashboard, session: Login) -> list[ConversationListed]:
    found = await dashboard.admin.get(session.key, "/conversations", Listing, filter="open", limit=str(OPEN_SHOWN))
    return found.items


async def _one(dashboard: Dashboard, session: Login, tenant: str, bot: str, talk: str) -> ConversationRead:
    return await dashboard.admin.get(session.key, path_of(tenant, bot, talk), ConversationRead)


def _inbox(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.get("/dashboard/inbox")
    async def inbox(request: Request) -> Response:
        session = await dashboard.session(request)
        found = await _open(dashboard, session)
        return page("inbox.html", page="Inbox", session=session, open=found, chosen=None, chosen_session="")

    @routes.get("/dashboard/inbox/{tenant}/{bot}/{talk}")
    async def one(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await dashboard.session(request)
        chosen = await _one(dashboard, session, tenant, bot, talk)
        found = await _open(dashboard, session)
        return page("inbox.html", page="Inbox", session=session, open=found, chosen=chosen, chosen_session=talk)

    @routes.get("/dashboard/parts/inbox")
    async def part(request: Request, chosen: Annotated[str, Query(max_length=64)] = "") -> Response:
        session = await dashboard.session(request)
        return page("parts/inbox.html", open=await _open(dashboard, session), chosen_session=chosen)

    @routes.get("/dashboard/parts/inbox-count")
    async def count(request: Request) -> Response:
        session = await dashboard.session(request)
        waiting = [each for each in await _open(dashboard, session) if each.state == "waiting"]
        return page("parts/inbox_count.html", waiting=len(waiting))

    @routes.get("/dashboard/parts/said/{tenant}/{bot}/{talk}")
    async def said(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await dashboard.session(request)
        return page("parts/said.html", session=session, chosen=await _one(dashboard, session, tenant, bot, talk))


def _conversations(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.get("/dashboard/conversations")
    async def conversations(
        request: Request,
        bot: Annotated[str, Query(max_length=200)] = "",
        filter: ConversationFilter = "all",
        search: Annotated[str, Query(max_length=200)] = "",
        before: Annotated[str, Query(pattern=r"^([0-9]{1,11}(\.[0-9]{1,9})?)?$")] = "",
    ) -> Response:
        session = await dashboard.session(request)
        asked = {"bot": bot, "filter": filter, "search": search, "before_s": before}
        query = {name: value for name, value in asked.items() if value}
        found = await dashboard.admin.get(session.key, "/conversations", Listing, limit=str(SHOWN), **query)
        bots = await dashboard.admin.get(session.key, "/bots", Page[Bot])
        chosen = {name: value for name, value in (("bot", bot), ("filter", filter), ("search", search)) if value}
        return page(
            "conversations.html",
            page="Conversations",
            session=session,
            found=found.items,
            older=f"{urlencode(chosen | {'before': repr(found.items[-1].at_s)})}" if found.more else None,
            bots=[each.id for each in bots.items if each.config.widget is not None],
            filters=FILTERS,
            bot=bot,
            filter=filter,
            search=search,
            query=urlencode(chosen),
        )

    @routes.get("/dashboard/conversations.{kind}")
    async def export(
        request: Request,
        kind: Literal["json", "csv"],
        bot: Annotated[str, Query(max_length=200)] = "",
        filter: ConversationFilter = "all",
        search: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        session = await dashboard.session(request)
        query = {"filter": filter, "limit": str(EXPORTED), "format": "full" if kind == "json" else "csv"}
        query |= {name: value for name, value in (("bot", bot), ("search", search)) if value}
        body = await dashboard.admin.text(session.key, "/conversations", **query)
        headers = HEADERS | {"content-disposition": f'attachment; filename="conversations.{kind}"'}
        return Response(body, media_type="application/json" if kind == "json" else "text/csv", headers=headers)

    @routes.get("/dashboard/conversations/{tenant}/{bot}/{talk}")
    async def one(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await dashboard.session(request)
        chosen = await _one(dashboard, session, tenant, bot, talk)
        return page("conversation.html", page="Conversations", session=session, chosen=chosen)


def _changes(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.post("/dashboard/talks/{tenant}/{bot}/{talk}/reply")
    async def reply(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await changing(dashboard, request)
        form = await form_of(request, REPLY_BYTES_MAX)
        path, body = f"{path_of(tenant, bot, talk)}/reply", {"text": form.get("text", "")}
        done = await dashboard.admin.ask(session.key, "POST", path, ConversationRead, body=body)
        return page("parts/said.html", session=session, chosen=done)

    @routes.post("/dashboard/talks/{tenant}/{bot}/{talk}/typing")
    async def typing(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await changing(dashboard, request)
        path = f"{path_of(tenant, bot, talk)}/typing"
        await dashboard.admin.send(session.key, "POST", path, {"on": True})
        return HTMLResponse("", 204, HEADERS)

    @routes.post("/dashboard/talks/{tenant}/{bot}/{talk}/delete")
    async def delete(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await changing(dashboard, request)
        await dashboard.admin.send(session.key, "DELETE", path_of(tenant, bot, talk))
        return HTMLResponse("", 200, HEADERS | {"hx-redirect": "/dashboard/conversations"})

    @routes.post("/dashboard/talks/{tenant}/{bot}/{talk}/delete-visitor")
    async def delete_visitor(request: Request, tenant: str, bot: str, talk: Talk) -> Response:
        session = await changing(dashboard, request)
        found = await _one(dashboard, session, tenant, bot, talk)
        path = f"/conversations/{quote(tenant, safe='')}/{quote(bot, safe='')}"
        query = {"visitor": found.visitor or found.contact}
        await dashboard.admin.ask(session.key, "DELETE", path, ConversationsDeleted, query=query)
        return HTMLResponse("", 200, HEADERS | {"hx-redirect": "/dashboard/conversations"})

    @routes.post("/dashboard/talks/{tenant}/{bot}/{talk}/{verb}")
    async def act(request: Request, tenant: str, bot: str, talk: Talk, verb: Literal["hand-back", "close"]) -> Response:
        session = await changing(dashboard, request)
        path = f"{path_of(tenant, bot, talk)}/{verb}"
        done = await dashboard.admin.ask(session.key, "POST", path, ConversationRead)
        return page("parts/said.html", session=session, chosen=done)
