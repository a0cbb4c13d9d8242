"""A chat with any bot, told with what it took: KV bits, queue wait, first token, tokens a second.

    GET  /dashboard/playground
    POST /dashboard/playground/chats               {bot, messages, max_tokens?, temperature?, session} -> 202 {chat}
    GET  /dashboard/playground/chats/{chat}        SSE from Last-Event-ID on: waiting, start, thought, message, end
    POST /dashboard/playground/chats/{chat}/stop

Its chats count as the bot's tenant's own, but not against its rate limits. A viewer may look but not chat.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from gateway.actions.loop import answered_with_actions
from gateway.admin.schemas import Bot, Page
from gateway.answers import EVENT_STREAM, PING, STREAM_HEADERS, event
from gateway.dashboard.admin_client import AdminRefused
from gateway.dashboard.controls import changing
from gateway.dashboard.logins import Login
from gateway.dashboard.render import page
from gateway.dashboard.router import Dashboard, PageRoute
from gateway.dashboard.security import HEADERS
from gateway.messages import Message
from gateway.metrics import RequestMetrics
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.submit import Caller, new_chat_id, submit
from services.contracts.replies import ContentKind, ReplyEnd, ReplyEntry
from services.store.connection import QueueUnavailable
from services.store.replies import ENTRY_ID, START
from services.store.submission import ChatInfo

SESSION_PREFIX = "playground~"  # gateway.request.SESSION lets no client name a session so
EXPLAIN_S = 1.0  # a chat that waits is explained that often
ChatId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class PlaygroundChat(BaseModel):
    """One question, with what was said before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bot: Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,63}/[a-z0-9._-]{1,63}$")]
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    session: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
    max_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None


def router(dashboard: Dashboard) -> APIRouter:
    """All routes of the playground."""
    routes = APIRouter(route_class=PageRoute, include_in_schema=False)
    gateway = dashboard.gateway

    @routes.get("/dashboard/playground")
    async def playground(request: Request) -> Response:
        session = await dashboard.session(request)
        bots = await dashboard.admin.get(session.key, "/bots", Page[Bot])
        return page("playground.html", page="Playground", session=session, bots=bots.items)

    @routes.post("/dashboard/playground/chats")
    async def ask(request: Request, asked: PlaygroundChat) -> Response:
        await changing(dashboard, request)
        tenant = asked.bot.partition("/")[0]
        chat = ChatRequest(
            model=asked.bot,
            messages=asked.messages,
            stream=True,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
        )
        name = SESSION_PREFIX + asked.session
        # An operator's tries do not use up a tenant's limits.
        caller = Caller.of(tenant, request.headers.get("x-request-id", name), session=name, limited=False)
        chat = await answered_with_actions(gateway, caller, tenant, chat)
        admitted = await submit(gateway, caller, chat, new_chat_id())
        return JSONResponse({"chat": admitted.ticket.chat}, 202, HEADERS)

    @routes.get("/dashboard/playground/chats/{chat}")
    async def stream(request: Request, chat: ChatId) -> Response:
        session = await dashboard.session(request)
        after = request.headers.get("last-event-id") or START
        if not ENTRY_ID.fullmatch(after):
            raise Refused(Code.INVALID_VALUE, "Last-Event-ID must be an event id of this host, such as 1-5.")
        ticket = (await _own(dashboard, chat)).ticket
        metrics = None
        if after == START:  # a second connection has missed the beginning
            began_s = perf_counter() - max(0.0, gateway.clock() - ticket.created_s)
            metrics = RequestMetrics(gateway.metrics, ticket, began_s)
        return StreamingResponse(
            _relay(dashboard, session, chat, after, metrics), media_type=EVENT_STREAM, headers=STREAM_HEADERS | HEADERS
        )

    @routes.post("/dashboard/playground/chats/{chat}/stop")
    async def stop(request: Request, chat: ChatId) -> Response:
        await changing(dashboard, request)
        ticket = (await _own(dashboard, chat)).ticket
        await gateway.submissions.cancel(ticket, gateway.config.gateway.reply_keep_s, gateway.clock())
        return Response(status_code=204, headers=HEADERS)

    return routes


async def _own(dashboard: Dashboard, chat: str) -> ChatInfo:
    """A chat of the playground: the dashboard shows nobody a customer's answer. Raises Refused."""
    info = await dashboard.gateway.submissions.chat(chat)
    if info is None or not info.ticket.session.startswith(SESSION_PREFIX):
        raise Refused(Code.CHAT_NOT_FOUND, "This chat does not exist, or its answer is no longer kept.")
    return info


async def _relay(
    dashboard: Dashboard, session: Login, chat: str, after: str, metrics: RequestMetrics | None
) -> AsyncIterator[bytes]:
    gateway = dashboard.gateway
    pace = _Pace()
    with gateway.hub.follow(chat, after) as reader:
        gateway.readers.add(reader)  # woken at a shutdown
        try:
            while not gateway.hand_over:
                started = pace.started
                entries = await reader.read(gateway.config.gateway.ping_s if started else EXPLAIN_S)
                told = b"".join(pace.told(entry) for entry in entries)
                _measure(metrics, entries)
                if not entries and not started:
                    told = await _why(dashboard, session, chat)
                yield told or PING
                if any(entry.end for entry in entries):
                    return
        finally:
            gateway.readers.discard(reader)


def _measure(metrics: RequestMetrics | None, entries: list[ReplyEntry]) -> None:
    if metrics is None:
        return
    for entry in entries:
        metrics.see(entry)
        if entry.end is not None:
            metrics.close(entry.end)


async def _why(dashboard: Dashboard, session: Login, chat: str) -> bytes:
    with contextlib.suppress(AdminRefused, QueueUnavailable):
        found = await dashboard.explained(session, chat)
        why = found.why or "This chat waits to be admitted."
        return event({"why": why, "position": found.position}, name="waiting")
    return PING


class _Pace:
    """Speed as this gateway sees it."""

    def __init__(self) -> None:
        self.started = False
        self._first: float | None = None
        self._tokens = 0

    def told(self, entry: ReplyEntry) -> bytes:
        """One entry as the playground reads it."""
        if entry.kind == "start":
            self.started = True
            return event({"kv_bits": entry.kv_bits, "queue_ms": _ms(entry.queue_s)}, name="start")
        if entry.content is ContentKind.TOOL_CALL:
            return b""
        if entry.text:
            self.started = True
            if self._first is None:
                self._first = perf_counter()
            else:
                self._tokens += entry.tokens
            name = "thought" if entry.content is ContentKind.REASONING else "message"
            return event({"text": entry.text}, name=name, entry_id=entry.id)
        return event(self._end(entry.end), name="end") if entry.end else b""

    def _end(self, end: ReplyEnd) -> dict[str, object]:
        took_s = perf_counter() - self._first if self._first is not None else 0.0
        used = end.usage
        return {
            "finish": end.finish.value,
            "message": end.error.message if end.error else None,
            "served_by": end.served_by,
            "kv_bits": int(used.kv_bits) if used else None,
            "queue_ms": _ms(used.queue_s) if used else None,
            "first_token_ms": _ms(used.first_token_s) if used else None,
            "tokens": used.completion_tokens if used else None,
            "prompt_tokens": used.prompt_tokens if used else None,
            "cached_tokens": used.cached_tokens if used else None,
            "tokens_per_s": round(self._tokens / took_s, 1) if took_s > 0 and self._tokens else None,
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
