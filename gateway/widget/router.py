"""The widget's HTTP face: what a visitor's browser asks, from pages of other origins.

    GET  /widget.js                                       the script
    GET  /widget/demo                                     a shop to try it in (bots with `widget.demo`)
    GET  /widget/v1/{token}/config?language=              title, greeting, colour
    POST /widget/v1/{token}/messages                      {session?, text, visitor?, language?} -> 202 {session, chat}
    GET  /widget/v1/{token}/sessions/{session}            what was said, and the chat under way
    GET  /widget/v1/{token}/sessions/{session}/events     SSE of people's turns, from Last-Event-ID on
    GET  /widget/v1/{token}/chats/{chat}/stream           SSE from Last-Event-ID on
    POST /widget/v1/{token}/confirmations                 {session, id, yes} -> 202 {session, chat}
    POST /widget/v1/{token}/chats/{chat}/stop             {session} -> 204, the answer so far stays
    POST /widget/v1/{token}/ratings                       {session, chat, rating, note?} -> 204
    POST /widget/v1/handover-replies/{tenant}/{bot}       a person's signed reply from a help desk (gateway/desk)
    POST /widget/v1/mail-replies/{key}                    a person's reply by e-mail (gateway/desk)
    POST /widget/v1/{token}/handover                      {session?, contact, note, page} -> 202

Errors are the gateway's: `{"error": {message, type, param, code}}`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.answers import EVENT_STREAM, STREAM_HEADERS
from gateway.call import Header
from gateway.desk import mail_replies, replies
from gateway.desk.events import follow
from gateway.desk.people import People, hands_over, is_away, waiting
from gateway.outcomes import OUTCOME_HEADER, Code, Refused
from gateway.state import Gateway
from gateway.widget import demo, origins
from gateway.widget.actions import Decided
from gateway.widget.answers import WidgetChats, not_found
from gateway.widget.handover import Outbox
from gateway.widget.sites import WidgetSite, WidgetSites
from gateway.widget.visitors import TOKEN_CHARS_MAX, Visitor, verified, visitor_secret
from services.config.localized import DEFAULT_LANGUAGE, Language, accepted_language, in_language, language_of
from services.store.connection import QueueUnavailable
from services.store.conversations import (
    DAY_S,
    MINUTE_S,
    Confirmation,
    Conversation,
    ConversationState,
    ConversationStore,
    ConversationTurn,
    Source,
    Speaker,
)
from services.store.replies import ENTRY_ID, START

API = "/widget/v1/"
TEXT_CHARS_MAX = 2000
BODY_BYTES_MAX = 16_384
EVENT_ID = re.compile(r"[0-9]{1,15}-[0-9]{1,15}")
HANDOVERS_PER_MINUTE = 3  # of one visitor
HANDOVERS_PER_MINUTE_ALL = 30  # of all visitors of one widget

Token = Annotated[str, Path(pattern=r"^bhw-[0-9a-f]{32}$")]
SessionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{32}$")]
CHAT_ID = r"^[A-Za-z0-9_-]{1,64}$"
ChatId = Annotated[str, Path(pattern=CHAT_ID)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_CHARS_MAX)]
Short = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class VisitorMessage(BaseModel):
    """A visitor's message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId | None = None
    text: Text
    visitor: Annotated[str, StringConstraints(max_length=TOKEN_CHARS_MAX)] | None = None
    language: Language | None = None


class AnswerRating(BaseModel):
    """What a visitor thinks of an answer. None takes it back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId
    chat: Annotated[str, StringConstraints(pattern=CHAT_ID)]
    rating: Literal["up", "down"] | None
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""


class StopAnswer(BaseModel):
    """A visitor has read enough of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId


class ConfirmationDecided(BaseModel):
    """A visitor's yes or no to what the bot asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    yes: bool


class Handover(BaseModel):
    """A visitor asks for a person."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: SessionId | None = None
    contact: Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=200)]
    note: Short = ""
    page: Annotated[str, StringConstraints(max_length=2000)] = ""


class Shown(BaseModel):
    """What the widget looks like, its texts in the visitor's language. `off`: what to say instead of chatting."""

    title: str
    greeting: str
    suggestions: tuple[str, ...]
    accent: str
    language: Language
    position: Literal["right", "left"]
    logo: str | None
    off: str | None
    handover: bool
    away: Annotated[str | None, Field(description="What to say while nobody is there.")]
    text_chars_max: int = TEXT_CHARS_MAX


class MessageAccepted(BaseModel):
    """A message on its way: read the answer from the chat's stream. No chat: people read it, or nobody is there."""

    session: str
    chat: str | None
    state: ConversationState


class TurnShown(BaseModel):
    """One thing said."""

    who: Speaker
    text: str
    chat: str | None
    finish: str | None
    sources: tuple[Source, ...]
    rating: Literal["up", "down"] | None
    name: str

    @classmethod
    def of(cls, turn: ConversationTurn) -> TurnShown:
        """Without what is kept for the operator only."""
        return cls(
            who=turn.who,
            text=turn.text,
            chat=turn.chat,
            finish=turn.finish,
            sources=turn.sources,
            rating=turn.rating,
            name=turn.name,
        )


class ConversationShown(BaseModel):
    """A conversation as its visitor sees it. `pending`: the chat being answered."""

    session: str
    turns: list[TurnShown]
    pending: Annotated[str | None, Field(description="The chat that is being answered.")]
    handed_over: bool
    state: ConversationState
    last_event: Annotated[str, Field(description="The event from which on to follow this conversation.")]
    typing: Annotated[bool, Field(description="A person is writing.")]
    confirm: Annotated[Confirmation | None, Field(description="What the visitor is asked to confirm.")]


class HandoverAccepted(BaseModel):
    """The handover was taken in. `id` is the delivery's; "" where no other program is notified."""

    session: str
    id: str
    state: ConversationState


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
        self.outbox = Outbox(gateway.connection, gateway.secrets.pepper, gateway.clock, mail=gateway.config.mail)
        self.people = People(gateway, self.store, self.outbox)
        self.answers = WidgetChats(gateway, self.store, self.people.announce)
        self._sites: WidgetSites | None = None

    @property
    def sites(self) -> WidgetSites:
        """Of the registry as it is now."""
        registry = self.gateway.directory.registry
        if self._sites is None or self._sites.version != registry.version:
            self._sites = WidgetSites(registry, self.gateway.secrets.pepper)
        return self._sites

    def demo(self) -> WidgetSite | None:
        """The bot of the demo page, if there is one now."""
        return self.sites.demo()

    def site(self, request: Request, token: str) -> WidgetSite:
        """The bot of a request from an allowed page. Raises Refused."""
        site = self.sites.site(token)
        if site is None:
            raise Refused(Code.NOT_FOUND, "This widget does not exist.")
        origins.check(site, request.headers, writes=request.method != "GET")
        return site

    def cors(self, path: str, headers: Mapping[str, str]) -> list[Header]:
        """What lets the page that asks read the answer, whatever it is. Nothing outside the widget's API."""
        if not path.startswith(API):
            return []
        site = self.sites.site(path.removeprefix(API).partition("/")[0])
        origin = None if site is None else origins.allowed(site, headers)
        return [(name.encode(), value.encode("latin-1")) for name, value in origins.allow(origin).items()]

    async def count_message(self, site: WidgetSite, request: Request) -> None:
        """Count a message against its visitor. Raises Refused, QueueUnavailable."""
        await self._count(self._visitor(site, request), site.widget.messages_per_minute)

    @asynccontextmanager
    async def counted(self, site: WidgetSite, request: Request, visitor: str) -> AsyncIterator[None]:
        """Count a message against its visitor's day and against all visitors of the widget, unless it is refused.
        Raises Refused, QueueUnavailable."""
        now_s = self.gateway.clock()
        counters = [(site.token, site.widget.messages_per_minute_all, MINUTE_S)]
        if site.widget.messages_per_day is not None:
            who = self._pseudonym(site, visitor) if visitor else self._visitor(site, request)
            counters.append((f"day:{who}", site.widget.messages_per_day, DAY_S))
        counted: list[tuple[str, int]] = []
        try:
            for what, most, window_s in counters:
                await self._count(what, most, window_s)
                counted.append((what, window_s))
            yield
        except Refused:
            for what, window_s in counted:
                await self.store.uncount(what, now_s, window_s)
            raise

    async def conversation(self, site: WidgetSite, said: VisitorMessage) -> Conversation:
        """The conversation that a message goes on with, or a new one; with its visitor and language. Raises Refused,
        QueueUnavailable."""
        now_s = self.gateway.clock()
        secret = visitor_secret(site.bot, self.gateway.secrets.pepper)
        visitor = verified(said.visitor, secret, now_s) if said.visitor is not None else None

        def known(now: Conversation) -> Conversation:
            return of_visitor(now, visitor, said.language)

        if said.session is None:
            return known(Conversation.new(site.bot, now_s))
        found = await self.answers.settled(site, await self.answers.conversation(site, said.session))
        return found if known(found) == found else await self.answers.change(site, said.session, known)

    async def count_handover(self, site: WidgetSite, request: Request) -> None:
        """Count a handover against its visitor, then against all. Raises Refused, QueueUnavailable."""
        await self._count(f"ho:{self._visitor(site, request)}", HANDOVERS_PER_MINUTE)
        await self._count(f"ho:{site.token}", HANDOVERS_PER_MINUTE_ALL)

    async def _count(self, what: str, most: int, window_s: int = MINUTE_S) -> None:
        wait_s = await self.store.count(what, most, self.gateway.clock(), window_s)
        if wait_s is None:
            return
        if window_s == DAY_S:
            words = "You have reached today's limit of messages. Please come back tomorrow."
            raise Refused(Code.RATE_LIMIT, words, param="messages_per_day", retry_after_s=wait_s)
        words = "Too many messages in a short time. Please wait a moment."
        raise Refused(Code.RATE_LIMIT, words, retry_after_s=wait_s)

    def _visitor(self, site: WidgetSite, request: Request) -> str:
        """Stands for a visitor's address in Redis without telling it."""
        return self._pseudonym(site, request.client.host if request.client else "")

    def _pseudonym(self, site: WidgetSite, name: str) -> str:
        mac = hmac.new(self.gateway.secrets.pepper, f"{site.token} {name}".encode(), hashlib.sha256)
        return mac.hexdigest()[:24]


def router(widgets: Widgets) -> APIRouter:
    """All routes of the widget."""
    routes = APIRouter(route_class=WidgetRoute, tags=["widget"])
    _writing(routes, widgets)
    _judging(routes, widgets)
    _reading(routes, widgets)
    replies.add(routes, widgets.gateway, widgets.store, lambda: widgets.sites)
    mail_replies.add(routes, widgets.gateway, widgets.store, lambda: widgets.sites)
    demo.add(routes, widgets.demo)
    return routes


def _writing(routes: APIRouter, widgets: Widgets) -> None:
    @routes.post("/widget/v1/{token}/messages", status_code=202)
    async def message(request: Request, token: Token, said: VisitorMessage) -> MessageAccepted:
        """A visitor says something."""
        site = widgets.site(request, token)
        if site.widget.off is not None:
            words = in_language(site.widget.off, said.language or DEFAULT_LANGUAGE)
            raise Refused(Code.QUEUE_UNAVAILABLE, words, param="off")
        await widgets.count_message(site, request)
        conversation = await widgets.conversation(site, said)
        call = request.headers.get("x-request-id", "widget")
        async with widgets.counted(site, request, conversation.visitor):
            if conversation.with_people or hands_over(site, said.text):
                if said.session is None:
                    await widgets.store.save(conversation, site.widget.keep_days)
                heard = await widgets.people.hear(site, conversation, said.text)
                return MessageAccepted(session=conversation.session, chat=None, state=(heard or conversation).state)
            asked = await widgets.answers.ask(site, conversation, said.text, call)
        return MessageAccepted(session=asked.session, chat=asked.pending, state=asked.state)

    @routes.post("/widget/v1/{token}/confirmations", status_code=202)
    async def confirm(request: Request, token: Token, said: ConfirmationDecided) -> MessageAccepted:
        """A visitor says yes or no to an action."""
        site = widgets.site(request, token)
        await widgets.count_message(site, request)
        conversation = await widgets.answers.settled(site, await widgets.answers.conversation(site, said.session))
        call = request.headers.get("x-request-id", "widget")
        async with widgets.counted(site, request, conversation.visitor):
            decided = Decided(said.id, said.yes)
            asked = await widgets.answers.ask(site, conversation, decided.text, call, decided)
        return MessageAccepted(session=asked.session, chat=asked.pending, state=asked.state)

    @routes.post("/widget/v1/{token}/handover", status_code=202)
    async def handover(request: Request, token: Token, asked: Handover) -> HandoverAccepted:
        """A visitor asks for a person. WidgetChats at once; the webhook is called in the background."""
        site = widgets.site(request, token)
        if not site.widget.hands_over:
            raise Refused(Code.NOT_FOUND, "This bot has no handover.")
        await widgets.count_handover(site, request)
        now_s = widgets.gateway.clock()
        session = asked.session
        if session is None:
            conversation = Conversation.new(site.bot, now_s)
            await widgets.store.save(conversation, site.widget.keep_days)
            session = conversation.session
        said = tuple(ConversationTurn(who="visitor", text=asked.note, at_s=now_s) for _ in [0] if asked.note)

        def handed_over(now: Conversation) -> Conversation:
            noted = now.model_copy(update={"contact": asked.contact, "handed_over_s": now_s})
            return noted if site.widget.handover is None else waiting(noted.with_turns(*said), now_s)

        before = await widgets.answers.conversation(site, session)
        conversation = await widgets.answers.change(site, session, handed_over)
        delivery = ""
        if site.widget.announces:
            delivery = await widgets.outbox.put(site, before, contact=asked.contact, note=asked.note, page=asked.page)
        return HandoverAccepted(session=session, id=delivery, state=conversation.state)


def _judging(routes: APIRouter, widgets: Widgets) -> None:
    @routes.post("/widget/v1/{token}/ratings", status_code=204)
    async def rate(request: Request, token: Token, given: AnswerRating) -> None:
        """A visitor rates an answer."""
        site = widgets.site(request, token)
        await widgets.answers.rate(site, given.session, given.chat, given.rating, given.note)

    @routes.post("/widget/v1/{token}/chats/{chat}/stop", status_code=204)
    async def stop(request: Request, token: Token, chat: ChatId, asked: StopAnswer) -> None:
        """A visitor has read enough: the answer ends, and what was written of it stays."""
        site = widgets.site(request, token)
        await widgets.answers.stop(site, asked.session, chat)


def of_visitor(conversation: Conversation, visitor: Visitor | None, language: Language | None) -> Conversation:
    """The conversation with who says the next thing, and in which language.

    Raises Refused where it belongs to another visitor of the shop: it does not exist for this one.
    """
    if conversation.visitor and (visitor is None or visitor.sub != conversation.visitor):
        raise not_found()
    known = {"visitor": visitor.sub, "visitor_name": visitor.name} if visitor else {}
    return conversation.model_copy(update={**known, "language": language or conversation.language})


def _reading(routes: APIRouter, widgets: Widgets) -> None:
    @routes.options("/widget/v1/{token}/{rest:path}", include_in_schema=False)
    async def preflight(request: Request, token: Token, rest: str) -> Response:  # noqa: ARG001  (part of the path)
        widgets.site(request, token)
        return Response(status_code=204, headers=origins.PREFLIGHT)

    @routes.get("/widget/v1/{token}/config")
    async def config(request: Request, token: Token, language: str = "") -> Shown:
        """What the widget looks like, in the page's `language`, else the bot's, else the browser's."""
        site = widgets.site(request, token)
        widget, hours = site.widget, site.widget.office_hours
        accepted = accepted_language(request.headers.get("accept-language", ""))
        shown = language_of(language) or widget.language or accepted or DEFAULT_LANGUAGE
        return Shown(
            title=in_language(widget.title, shown),
            greeting=in_language(widget.greeting, shown),
            suggestions=in_language(widget.suggestions, shown),
            accent=widget.accent,
            language=shown,
            position=widget.position,
            logo=widget.logo,
            off=None if widget.off is None else in_language(widget.off, shown),
            handover=widget.hands_over,
            away=in_language(hours.away, shown) if hours and is_away(site, widgets.gateway.clock()) else None,
        )

    @routes.get("/widget/v1/{token}/sessions/{session}")
    async def session(request: Request, token: Token, session: SessionId) -> ConversationShown:
        """What was said so far."""
        site = widgets.site(request, token)
        conversation = await widgets.answers.settled(site, await widgets.answers.conversation(site, session))
        return ConversationShown(
            session=conversation.session,
            turns=[TurnShown.of(turn) for turn in conversation.turns],
            pending=conversation.pending,
            handed_over=conversation.handed_over_s is not None,
            state=conversation.state,
            typing=conversation.with_people and await widgets.store.is_typing(session),
            last_event=await widgets.store.last_event(session) if conversation.handed_over_s else "0-0",
            confirm=conversation.confirm,
        )

    @routes.get("/widget/v1/{token}/sessions/{session}/events", response_class=StreamingResponse)
    async def events(
        request: Request, token: Token, session: SessionId, after: Annotated[str, Query(max_length=40)] = ""
    ) -> StreamingResponse:
        """What people write, and who has the conversation, from Last-Event-ID or `after` on; else from now on."""
        site = widgets.site(request, token)
        await widgets.answers.conversation(site, session)
        since = request.headers.get("last-event-id") or after or await widgets.store.last_event(session)
        if not EVENT_ID.fullmatch(since):
            raise Refused(Code.INVALID_VALUE, "Last-Event-ID must be an event id of this host.", param="last_event_id")
        events = follow(widgets.gateway, widgets.store, session, since)
        return StreamingResponse(events, media_type=EVENT_STREAM, headers=STREAM_HEADERS)

    @routes.get("/widget/v1/{token}/chats/{chat}/stream", response_class=StreamingResponse)
    async def stream(request: Request, token: Token, chat: ChatId) -> StreamingResponse:
        """One answer as server-sent events, from Last-Event-ID on."""
        site = widgets.site(request, token)
        after = request.headers.get("last-event-id") or START
        if not ENTRY_ID.fullmatch(after):
            raise Refused(
                Code.INVALID_VALUE,
                "Last-Event-ID must be an event id of this host, such as 1-5.",
                param="last_event_id",
            )
        info = await widgets.gateway.submissions.chat(chat)
        if info is None or info.ticket.bot != site.bot:
            raise Refused(Code.CHAT_NOT_FOUND, "This chat does not exist, or its answer is no longer kept.")
        confirm = await widgets.answers.asked_in(site, info.ticket)
        events = widgets.answers.relay(info.ticket, after, confirm)
        return StreamingResponse(events, media_type=EVENT_STREAM, headers=STREAM_HEADERS)


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
