"""Visitors' conversations: list, read, answer, hand back, close, export, delete.

The audit log names the conversation and who did what, never what was said.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Response, status

from gateway.admin.auth import Actor, Operator, Viewer
from gateway.admin.common import Host, bot_of, note, noted, routes
from gateway.admin.conversation_schemas import (
    ConversationFilter,
    ConversationListed,
    ConversationRead,
    ConversationsDeleted,
    PersonReply,
    PersonTyping,
)
from gateway.admin.errors import NotFound
from gateway.admin.schemas import Page
from gateway.desk.people import moved, replied
from gateway.state import Gateway
from services.store.conversation_index import ConversationIndex, IndexedConversation
from services.store.conversations import Conversation, ConversationState, ConversationStore

READ_MAX = 5000  # conversations of one bot that one question looks at
SECONDS_MAX = 1e11
KEEP_DAYS = 30  # of a bot whose widget was taken away
COLUMNS = (
    "bot",
    "session",
    "state",
    "visitor",
    "contact",
    "at_s",
    "who",
    "name",
    "text",
    "rating",
    "rating_note",
    "missed",
)

router = routes("conversations")


@dataclass(frozen=True, slots=True)
class ConversationQuery:
    """What a list is asked for."""

    tenant: str | None
    bot: str | None
    filter: ConversationFilter
    search: str
    visitor: str

    def takes(self, each: IndexedConversation) -> bool:
        """Whether a conversation belongs in the list."""
        found, words = each.conversation, self.search.casefold()
        if (self.bot and found.bot != self.bot) or (self.tenant and found.bot.partition("/")[0] != self.tenant):
            return False
        if not found.turns or (self.visitor and self.visitor not in (found.visitor, found.contact)):
            return False
        return ConversationListed.of(found, each.at_s).passes(self.filter) and (not words or _holds(found, words))


def _asked(
    tenant: str | None = None,
    bot: Annotated[str | None, Query(description="tenant/bot")] = None,
    filter: ConversationFilter = "all",
    search: Annotated[str, Query(max_length=200)] = "",
    visitor: Annotated[str, Query(max_length=200, description="An identified visitor's id, or a contact.")] = "",
) -> ConversationQuery:
    return ConversationQuery(tenant, bot, filter, search, visitor)


@dataclass(frozen=True, slots=True)
class ConversationPath:
    """One conversation of a bot."""

    tenant: str
    bot: str
    session: str

    @property
    def name(self) -> str:
        """`tenant/bot`."""
        return f"{self.tenant}/{self.bot}"


def _named(tenant: str, bot: str, session: Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{32}$")]) -> ConversationPath:
    return ConversationPath(tenant, bot, session)


Asked = Annotated[ConversationQuery, Depends(_asked)]
Named = Annotated[ConversationPath, Depends(_named)]
Before = Annotated[float, Query(ge=0, le=SECONDS_MAX, allow_inf_nan=False)]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/conversations", response_model=Page[ConversationListed], responses={200: {"content": {"text/csv": {}}}})
async def index(
    host: Host,
    _: Viewer,
    asked: Asked,
    before_s: Before = SECONDS_MAX,
    limit: Limit = 50,
    format: Annotated[Literal["json", "full", "csv"], Query()] = "json",
) -> Any:
    """Conversations, latest first; with `open` those that wait for a person, longest first. `full`: with all turns."""
    found = await _found(host, asked, before_s, limit)
    shown, more = found[:limit], len(found) > limit
    if format == "csv":
        return _file(_csv([each.conversation for each in shown]), "text/csv", "conversations.csv")
    if format == "full":
        full = Page[ConversationRead](items=[_read(each.conversation, each.at_s) for each in shown], more=more)
        return _file(full.model_dump_json(), "application/json", "conversations.json")
    return Page[ConversationListed](
        items=[ConversationListed.of(each.conversation, each.at_s) for each in shown], more=more
    )


@router.get("/conversations/{tenant}/{bot}/{session}")
async def one(named: Named, host: Host, _: Viewer) -> ConversationRead:
    """All that was said."""
    found = await _there(host, named)
    return _read(found, found.turns[-1].at_s if found.turns else found.began_s)


@router.post("/conversations/{tenant}/{bot}/{session}/reply")
async def reply(named: Named, said: PersonReply, host: Host, actor: Operator) -> ConversationRead:
    """Answer the visitor as a person. Whoever answers has the conversation until it is handed back or closed."""
    now_s, name = host.clock(), said.name or actor.name
    done = await _changed(host, named, lambda now: replied(now, said.text, name, now_s))
    await ConversationStore(host.connection).types(named.session, on=False)
    await _audited(host, actor, "conversation.reply", done)
    return _read(done, now_s)


@router.post("/conversations/{tenant}/{bot}/{session}/typing", status_code=status.HTTP_204_NO_CONTENT)
async def typing(named: Named, typed: PersonTyping, host: Host, _: Operator) -> None:
    """Show the visitor that a person writes."""
    await _there(host, named)
    await ConversationStore(host.connection).types(named.session, on=typed.on)


@router.post("/conversations/{tenant}/{bot}/{session}/{verb}")
async def act(named: Named, verb: Literal["hand-back", "close"], host: Host, actor: Operator) -> ConversationRead:
    """Hand the visitor back to the bot, or close the conversation."""
    state: ConversationState = "closed" if verb == "close" else "bot"
    done = await _changed(host, named, lambda now: moved(now, state))
    await _audited(host, actor, f"conversation.{verb}", done)
    return _read(done, host.clock())


@router.delete("/conversations/{tenant}/{bot}/{session}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(named: Named, host: Host, actor: Operator) -> None:
    """Forget a conversation at once and for good."""
    found = await _there(host, named)
    await ConversationIndex(host.connection).delete(found.bot, found.session)
    await _audited(host, actor, "conversation.delete", found)


@router.delete("/conversations/{tenant}/{bot}")
async def delete_visitor(
    tenant: str,
    bot: str,
    host: Host,
    actor: Operator,
    visitor: Annotated[
        str, Query(min_length=1, max_length=200, description="An identified visitor's id, or a contact.")
    ],
) -> ConversationsDeleted:
    """Forget all conversations of one visitor."""
    name, stored = f"{tenant}/{bot}", ConversationIndex(host.connection)
    of_visitor = [
        each.conversation
        async for each in stored.of_bot(name, SECONDS_MAX)
        if visitor in (each.conversation.visitor, each.conversation.contact)
    ]
    for found in of_visitor:
        await stored.delete(name, found.session)
        await _audited(host, actor, "conversation.delete", found)
    return ConversationsDeleted(deleted=len(of_visitor))


async def _found(host: Gateway, asked: ConversationQuery, before_s: float, limit: int) -> list[IndexedConversation]:
    """Up to `limit` and one more."""
    stored = ConversationIndex(host.connection)
    if asked.filter == "open":
        return [each for each in await stored.open() if asked.takes(each)][: limit + 1]
    rows: list[IndexedConversation] = []
    for name in [asked.bot] if asked.bot else _bots(host, asked.tenant):
        seen = taken = 0
        async for each in stored.of_bot(name, before_s):
            seen += 1
            if asked.takes(each):
                rows.append(each)
                taken += 1
            if taken > limit or seen >= READ_MAX:
                break
    rows.sort(key=lambda each: -each.at_s)
    return rows[: limit + 1]


def _bots(host: Gateway, tenant: str | None) -> list[str]:
    tenants = host.directory.registry.tenants
    return [f"{name}/{bot}" for name, record in tenants.items() if tenant in (None, name) for bot in record.config.bots]


def _holds(found: Conversation, words: str) -> bool:
    texts = (found.contact, found.visitor, found.visitor_name, *(turn.text for turn in found.turns))
    return any(words in text.casefold() for text in texts)


async def _there(host: Gateway, named: ConversationPath) -> Conversation:
    """Raises NotFound."""
    found = await ConversationStore(host.connection).read(named.name, named.session)
    if found is None:
        raise _unknown(named)
    return found


async def _changed(
    host: Gateway, named: ConversationPath, changed: Callable[[Conversation], Conversation]
) -> Conversation:
    """Raises NotFound."""
    widget = bot_of(host.directory.registry, named.tenant, named.bot).widget
    keep_days = widget.keep_days if widget is not None else KEEP_DAYS
    store = ConversationStore(host.connection)
    done = await store.change(named.name, named.session, keep_days, host.clock(), changed)
    if done is None:
        raise _unknown(named)
    return done


async def _audited(host: Gateway, actor: Actor, action: str, found: Conversation) -> None:
    after = None if action.endswith("delete") else {"state": found.state}
    await noted(host, note(host, actor, action, f"{found.bot}/{found.session}", after=after))


def _unknown(named: ConversationPath) -> NotFound:
    return NotFound(f"{named.name} has no conversation {named.session!r}, or it has expired.", param="session")


def _read(found: Conversation, at_s: float) -> ConversationRead:
    listed = ConversationListed.of(found, at_s)
    return ConversationRead(**listed.model_dump(), said=list(found.turns))


def _file(body: str, kind: str, name: str) -> Response:
    return Response(body, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


def _csv(conversations: list[Conversation]) -> str:
    """One line a turn."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for found in conversations:
        head = (found.bot, found.session, found.state, found.visitor, found.contact)
        for turn in found.turns:
            tail = (turn.at_s, turn.who, turn.name, turn.text, turn.rating or "", turn.rating_note, turn.missed)
            writer.writerow([_cell(value) for value in (*head, *tail)])
    return out.getvalue()


def _cell(value: object) -> str:
    """Keeps a spreadsheet from reading what a visitor wrote as a formula."""
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
