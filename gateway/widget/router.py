"""The widget's HTTP face: what a visitor's browser asks, from pages of other origins.

    GET  /widget.js                                       the script
    GET  /widget/demo                                     a shop to try it in (bots with `widget.demo`)
    GET  /widget/v1/{token}/config                        title, greeting, colour
    POST /widget/v1/{token}/messages                      {session?, text} -> 202 {session, chat}
    GET  /widget/v1/{token}/sessions/{session}            what was said, and the chat under way
    GET  /widget/v1/{token}/chats/{chat}/stream           SSE from Last-Event-ID on
    POST /widget/v1/{token}/handover                      {session?, contact, note, page} -> 202

Errors are the gateway's: `{"error": {message, type, param, code}}`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.answers import EVENT_STREAM, STREAM_HEADERS
from gateway.call import Header
from gateway.outcomes import OUTCOME_HEADER, Code, Refused
from gateway.state import Gateway
from gateway.widget import demo, origins
from gateway.widget.answers import WidgetChats
from gateway.widget.handover import Outbox
from gateway.widget.sites import WidgetSite, WidgetSites
from services.store.connection import QueueUnavailable
from services.store.conversations import Conversation, ConversationStore
from services.store.replies import ENTRY_ID, START

API = "/widget/v1/"
TEXT_CHARS_MAX = 2000
BODY_BYTES_MAX = 16_384
HANDOVERS_PER_MINUTE = 3

Token = Annotated[str, Path(pattern=r"^bhw-[0-9a-f]{32}$")]
SessionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{32}$")]
ChatId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_CHARS_MAX)]
Short = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Said(BaseModel):
    """A visitor's message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId | None = None
    text: Text


class Handover(BaseModel):
    """A visitor asks for a person."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId | None = None
    contact: Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=200)]
    note: Short = ""
    page: Annotated[str, StringConstraints(max_length=2000)] = ""


class Shown(BaseModel):
    """What the widget looks like."""

    title: str
    greeting: str
    suggestions: tuple[str, ...]
    accent: str
    handover: bool
    text_chars_max: int = TEXT_CHARS_MAX


class MessageAccepted(BaseModel):
    """A message on its way: read the answer from the chat's stream."""

    session: str
    chat: str


class TurnShown(BaseModel):
    """One thing said."""

    who: str
    text: str
    chat: str | None
    finish: str | None


class TalkShown(BaseModel):
    """A conversation as its visitor sees it. `pending`: the chat being answered."""

    session: str
    turns: list[TurnShown]
    pending: Annotated[str | None, Field(description="The chat that is being answered.")]
    handed_over: bool


class Told(BaseModel):
    """The handover was taken in."""

    session: str
    id: str


class WidgetRoute(APIRoute):
    """Errors in the gateway's form. `Widgets.cors` has the headers that let the page read them."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                answer = await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                refused = Refused(
                    Code.INVALID_VALUE, str(first["msg"]), param=".".join(str(part) for part in first["loc"][1:])
                )
                answer = refusal(refused)
            except Refused as refused:
                answer = refusal(refused)
            except QueueUnavailable:
                answer = refusal(Refused(Code.QUEUE_UNAVAILABLE, "This chat is not available right now."))
            answer.headers.setdefault("cache-control", "no-store")
            return answer

        return handled


class Widgets:
    """All widgets of one gateway process. `run` must be running for handovers to be delivered."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.store = ConversationStore(gateway.connection)
        self.answers = WidgetChats(gateway, self.store)
        self.outbox = Outbox(gateway.connection, gateway.secrets.pepper, gateway.clock)
        self._tokens: WidgetSites | None = None

    @property
    def tokens(self) -> WidgetSites:
        """Of the registry as it is now."""
        registry = self.gateway.directory.registry
        if self._tokens is None or self._tokens.version != registry.version:
            self._tokens = WidgetSites(registry, self.gateway.secrets.pepper)
        return self._tokens

    def demo(self) -> WidgetSite | None:
        """The bot of the demo page, if there is one now."""
        return self.tokens.demo()

    def place(self, request: Request, token: str) -> WidgetSite:
        """The bot of a request from an allowed page. Raises Refused."""
        place = self.tokens.place(token)
        if place is None:
            raise Refused(Code.NOT_FOUND, "There is no such widget.")
        origins.check(place, request.headers, writes=request.method != "GET")
        return place

    def cors(self, path: str, headers: Mapping[str, str]) -> list[Header]:
        """What lets the page that asks read the answer, whatever it is. Nothing outside the widget's API."""
        if not path.startswith(API):
            return []
        place = self.tokens.place(path.removeprefix(API).partition("/")[0])
        origin = None if place is None else origins.allowed(place, headers)
        return [(name.encode(), value.encode("latin-1")) for name, value in origins.allow(origin).items()]

    async def count(self, place: WidgetSite, request: Request) -> None:
        """Count a message against visitor and bot. Raises Refused, QueueUnavailable."""
        visitor = self._visitor(place, request)
        widget = place.widget
        await self._count({visitor: widget.messages_per_minute, place.token: widget.messages_per_minute_all})

    async def count_handover(self, place: WidgetSite, request: Request) -> None:
        """Count a handover. Raises Refused, QueueUnavailable."""
        await self._count({f"ho:{self._visitor(place, request)}": HANDOVERS_PER_MINUTE})

    async def _count(self, limits: Mapping[str, int]) -> None:
        wait_s = await self.store.count(limits, self.gateway.clock())
        if wait_s is not None:
            words = "Too many messages in a short time. Please wait a moment."
            raise Refused(Code.RATE_LIMIT, words, retry_after_s=wait_s)

    def _visitor(self, place: WidgetSite, request: Request) -> str:
        """Stands for a visitor's address in Redis without telling it."""
        address = request.client.host if request.client else ""
        mac = hmac.new(self.gateway.secrets.pepper, f"{place.token} {address}".encode(), hashlib.sha256)
        return mac.hexdigest()[:24]


def router(widgets: Widgets) -> APIRouter:
    """All routes of the widget."""
    routes = APIRouter(route_class=WidgetRoute, tags=["widget"])
    _talking(routes, widgets)
    _reading(routes, widgets)
    demo.add(routes, widgets.demo)
    return routes


def _talking(routes: APIRouter, widgets: Widgets) -> None:
    @routes.post("/widget/v1/{token}/messages", status_code=202)
    async def message(request: Request, token: Token, said: Said) -> MessageAccepted:
        """A visitor says something."""
        place = widgets.place(request, token)
        await widgets.count(place, request)
        if said.session is None:
            talk = Conversation.new(place.bot, widgets.gateway.clock())
        else:
            talk = await widgets.answers.settled(place, await widgets.answers.talk(place, said.session))
        call = request.headers.get("x-request-id", "widget")
        asked = await widgets.answers.ask(place, talk, said.text, call)
        return MessageAccepted(session=asked.session, chat=asked.pending or "")

    @routes.post("/widget/v1/{token}/handover", status_code=202)
    async def handover(request: Request, token: Token, asked: Handover) -> Told:
        """A visitor asks for a person. WidgetChats at once; the webhook is called in the background."""
        place = widgets.place(request, token)
        if place.widget.handover_webhook is None:
            raise Refused(Code.NOT_FOUND, "This bot hands nobody over.")
        await widgets.count_handover(place, request)
        now_s = widgets.gateway.clock()
        if asked.session is None:
            talk = Conversation.new(place.bot, now_s)
        else:
            talk = await widgets.answers.talk(place, asked.session)
        talk = talk.model_copy(update={"handed_over_s": now_s})
        await widgets.store.save(talk, place.widget.keep_days)
        letter = await widgets.outbox.put(place, talk, contact=asked.contact, note=asked.note, page=asked.page)
        return Told(session=talk.session, id=letter)


def _reading(routes: APIRouter, widgets: Widgets) -> None:
    @routes.options("/widget/v1/{token}/{rest:path}", include_in_schema=False)
    async def preflight(request: Request, token: Token, rest: str) -> Response:  # noqa: ARG001  (part of the path)
        widgets.place(request, token)
        return Response(status_code=204, headers=origins.PREFLIGHT)

    @routes.get("/widget/v1/{token}/config")
    async def config(request: Request, token: Token) -> Shown:
        """What the widget looks like."""
        widget = widgets.place(request, token).widget
        return Shown(
            title=widget.title,
            greeting=widget.greeting,
            suggestions=widget.suggestions,
            accent=widget.accent,
            handover=widget.handover_webhook is not None,
        )

    @routes.get("/widget/v1/{token}/sessions/{session}")
    async def session(request: Request, token: Token, session: SessionId) -> TalkShown:
        """What was said so far."""
        place = widgets.place(request, token)
        talk = await widgets.answers.settled(place, await widgets.answers.talk(place, session))
        return TalkShown(
            session=talk.session,
            turns=[TurnShown(who=t.who, text=t.text, chat=t.chat, finish=t.finish) for t in talk.turns],
            pending=talk.pending,
            handed_over=talk.handed_over_s is not None,
        )

    @routes.get("/widget/v1/{token}/chats/{chat}/stream", response_class=StreamingResponse)
    async def stream(request: Request, token: Token, chat: ChatId) -> StreamingResponse:
        """One answer as server-sent events, from Last-Event-ID on."""
        place = widgets.place(request, token)
        after = request.headers.get("last-event-id") or START
        if not ENTRY_ID.fullmatch(after):
            raise Refused(Code.INVALID_VALUE, "Last-Event-ID is no event id of this host.", param="last_event_id")
        info = await widgets.gateway.door.chat(chat)
        if info is None or info.ticket.bot != place.bot:
            raise Refused(Code.CHAT_NOT_FOUND, "No such chat, or its answer is no longer kept.")
        return StreamingResponse(widgets.answers.relay(chat, after), media_type=EVENT_STREAM, headers=STREAM_HEADERS)


def refusal(refused: Refused) -> JSONResponse:
    """An error in the gateway's form."""
    headers = {name.decode(): value.decode() for name, value in refused.headers()}
    headers[OUTCOME_HEADER.decode()] = refused.counted_as.value
    error = {
        "message": refused.message,
        "type": refused.row.type,
        "param": refused.param,
        "code": refused.code.value,
    }
    return JSONResponse({"error": error}, refused.row.status, headers)
