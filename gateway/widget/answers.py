"""One visitor's message becomes a chat of the bot; its answer is kept in the conversation and shown to the page.

The page may reload, move on or lose its network: the answer goes on. Only one that no page has read for READ_S is
cancelled, so that nobody's tokens are made for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import dropwhile, groupby
from time import monotonic, perf_counter
from typing import Literal

import structlog

from gateway.actions.loop import Ran
from gateway.actions.results import ActionResult
from gateway.answers import PING, event, text_of
from gateway.desk.people import escalated
from gateway.metrics import RequestMetrics
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from gateway.state import Gateway
from gateway.submit import Caller, new_chat_id, submit
from gateway.widget.actions import Decided, WidgetActions
from gateway.widget.sites import WidgetSite
from services.contracts.chats import Ticket
from services.contracts.replies import ContentKind, Finish, ReplyEnd, ReplyEntry
from services.store.connection import QueueUnavailable
from services.store.conversations import (
    BUSY_S_MAX,
    READ_S,
    Confirmation,
    Conversation,
    ConversationStore,
    ConversationTurn,
    Source,
)
from services.store.replies import START, Reader

LOOK_S = 10.0  # how often the keeper of an answer looks whether it is still read
SESSION_PREFIX = "widget-"
DECIDING_TURNS = 12  # of the conversation's end, by which actions are decided
LATE_S = 0.5  # reading a reply that has ended takes one round trip
WORDS = {
    Finish.ERROR: "Sorry, this could not be answered right now. Please try again in a moment.",
    Finish.CANCELLED: "The answer was stopped.",
}

log = structlog.get_logger()


class WidgetChats:
    """All widgets' chats that this gateway process takes in or relays."""

    def __init__(
        self,
        gateway: Gateway,
        store: ConversationStore,
        announce: Callable[[WidgetSite, Conversation], Awaitable[None]],
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._actions = WidgetActions(gateway)
        self._announce = announce
        self._keepers: set[asyncio.Task[None]] = set()

    async def ask(
        self, site: WidgetSite, conversation: Conversation, text: str, call: str, decided: Decided | None = None
    ) -> Conversation:
        """Submit one message, or the visitor's word on a call that waits for it. Returns the conversation with its
        pending turn. Raises Refused, QueueUnavailable."""
        chat = new_chat_id()
        if not await self._store.hold(conversation.session, chat):
            raise Refused(
                Code.RATE_LIMIT,
                "Please wait for the answer before writing another message.",
                param="session",
                retry_after_s=2.0,
            )
        try:
            conversation = await self._newest(site, conversation)
            caller = Caller.of(site.tenant, call, session=f"{SESSION_PREFIX}{conversation.session}")
            acted = await self._acted(site, conversation, text, caller, decided)
            ticket = await self._submit(site, conversation, text, caller, chat=chat, results=acted.results)
        except BaseException:
            with contextlib.suppress(QueueUnavailable):
                await self._store.let_go(conversation.session, chat)
            raise
        now_s = self._gateway.clock()
        said = (
            ConversationTurn(who="visitor", text=text, at_s=now_s),
            ConversationTurn(
                who="bot", text="", at_s=now_s, chat=chat, sources=sources_of(ticket), missed=ticket.missed
            ),
        )
        confirm = await self._actions.ask(site, conversation, acted)
        if not conversation.turns and await self._store.read(site.bot, conversation.session) is None:  # a new one
            await self._store.save(conversation, site.widget.keep_days)

        def written(now: Conversation) -> Conversation:
            state = "bot" if now.state == "closed" else now.state
            return now.with_turns(*said).model_copy(update={"confirm": confirm, "state": state})

        asked = await self.change(site, conversation.session, written)
        await self._store.reading(chat)
        keeper = asyncio.create_task(self._keep(site, conversation.session, ticket))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return asked

    async def _acted(
        self, site: WidgetSite, conversation: Conversation, text: str, caller: Caller, decided: Decided | None
    ) -> Ran:
        try:
            said = [(turn.who, turn.text) for turn in conversation.turns[-DECIDING_TURNS:] if turn.text]
            messages = alternating(dropwhile(lambda turn: turn[0] != "visitor", [*said, ("visitor", text)]))
            return await self._actions.act(site, conversation, caller, messages=messages, decided=decided)
        except Refused as refused:
            raise (refused if decided is not None else for_visitor(refused)) from refused

    async def _submit(
        self,
        site: WidgetSite,
        conversation: Conversation,
        text: str,
        caller: Caller,
        *,
        chat: str,
        results: Sequence[ActionResult],
    ) -> Ticket:
        """With as much of the conversation as the bot's context takes: the oldest turns are left out first."""
        said = [(turn.who, turn.text) for turn in conversation.turns if turn.text]
        said.append(("visitor", text))
        while True:
            said = list(dropwhile(lambda turn: turn[0] != "visitor", said))  # templates want a user to begin
            request = ChatRequest.model_validate(
                {
                    "model": site.bot,
                    "messages": alternating(said),
                    "stream": True,
                    "temperature": site.widget.temperature,
                }
            )
            try:
                request = self._actions.answered(site, request, results)
                return (await submit(self._gateway, caller, request, chat)).ticket
            except Refused as refused:
                if refused.code is not Code.CONTEXT_LENGTH or len(said) == 1:
                    raise for_visitor(refused) from refused
                said = said[1:]

    async def conversation(self, site: WidgetSite, session: str) -> Conversation:
        """A conversation of this bot. Raises Refused, QueueUnavailable."""
        found = await self._store.read(site.bot, session)
        if found is None:
            raise not_found()
        return found

    async def stop(self, site: WidgetSite, session: str, chat: str) -> None:
        """End the answer that a conversation waits for; what was written of it stays. Nothing happens to one that has
        ended. Raises Refused, QueueUnavailable."""
        conversation = await self.conversation(site, session)
        if all(turn.chat != chat for turn in conversation.turns):
            raise Refused(Code.CHAT_NOT_FOUND, "This conversation has no such answer.")
        info = await self._gateway.submissions.chat(chat)
        if conversation.pending == chat and info is not None:
            keep_s = self._gateway.config.gateway.reply_keep_s
            await self._gateway.submissions.cancel(info.ticket, keep_s, self._gateway.clock())

    async def rate(
        self, site: WidgetSite, session: str, chat: str, rating: Literal["up", "down"] | None, note: str
    ) -> None:
        """Keep what the visitor thinks of an answer that has ended. Raises Refused, QueueUnavailable."""

        def rated(now: Conversation) -> Conversation:
            if not any(turn.who == "bot" and turn.chat == chat and turn.finish for turn in now.turns):
                raise Refused(Code.CHAT_NOT_FOUND, "This conversation has no such answer.")
            given = {"rating": rating, "rating_note": note if rating else ""}
            turns = tuple(turn.model_copy(update=given) if turn.chat == chat else turn for turn in now.turns)
            return now.model_copy(update={"turns": turns})

        await self.settled(site, await self.conversation(site, session))
        await self.change(site, session, rated)

    async def settled(self, site: WidgetSite, conversation: Conversation) -> Conversation:
        """The conversation, with an answer that ended while its keeper was gone. Raises Refused, QueueUnavailable."""
        chat = conversation.pending
        if chat is None:
            return conversation
        info = await self._gateway.submissions.chat(chat)
        if info is not None and info.state != "done":
            return conversation
        entries: list[ReplyEntry] = []
        end: ReplyEnd | None = None
        with self._gateway.hub.follow(chat, START) as reader:
            while end is None and (more := await reader.read(LATE_S)):
                entries += more
                end = next((entry.end for entry in more if entry.end), None)
        if end is None and info is not None:
            return conversation
        return await self._finish(site, conversation.session, chat, text_of(entries), end)

    async def _newest(self, site: WidgetSite, conversation: Conversation) -> Conversation:
        """The conversation as it stands. One that was read before its last answer was kept lacks that answer."""
        stored = await self._store.read(site.bot, conversation.session)
        return conversation if stored is None else await self.settled(site, stored)

    async def asked_in(self, site: WidgetSite, ticket: Ticket) -> Confirmation | None:
        """What the visitor is asked to confirm by this chat. Raises QueueUnavailable."""
        conversation = await self._store.read(site.bot, ticket.session.removeprefix(SESSION_PREFIX))
        last = conversation.turns[-1] if conversation is not None and conversation.turns else None
        return conversation.confirm if conversation and last and last.chat == ticket.chat else None

    async def close(self) -> None:
        """Leave all answers to themselves: another gateway finds them ended."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, site: WidgetSite, session: str, ticket: Ticket) -> None:
        """Follow one answer to its end and write it down."""
        parts: list[str] = []
        end: ReplyEnd | None = None
        metrics = RequestMetrics(self._gateway.metrics, ticket, perf_counter())
        until_s = monotonic() + BUSY_S_MAX
        with self._gateway.hub.follow(ticket.chat, START) as reader:
            while end is None and monotonic() < until_s:
                entries = await reader.read(LOOK_S)
                for entry in entries:
                    metrics.see(entry)
                parts.append(text_of(entries))
                end = next((entry.end for entry in entries if entry.end), None)
                if not entries:
                    await self._cancel_unread(ticket)
        metrics.close(end, "ok" if end else Code.NO_NEWS.value)
        try:
            await self._finish(site, session, ticket.chat, "".join(parts), end)
        except (QueueUnavailable, Refused) as error:
            log.warning("widget.answer_not_kept", bot=site.bot, chat=ticket.chat, why=str(error))

    async def _cancel_unread(self, ticket: Ticket) -> None:
        with contextlib.suppress(QueueUnavailable):
            if self._gateway.clock() - ticket.created_s > READ_S and not await self._store.is_read(ticket.chat):
                keep_s = self._gateway.config.gateway.reply_keep_s
                await self._gateway.submissions.cancel(ticket, keep_s, self._gateway.clock())

    async def _finish(self, site: WidgetSite, session: str, chat: str, text: str, end: ReplyEnd | None) -> Conversation:
        """Write one answer down, unless it is already: its keeper and a page that looks may both find it ended."""
        finish = end.finish.value if end else Finish.ERROR.value
        now_s = self._gateway.clock()
        escalates = False

        def answered(now: Conversation) -> Conversation:
            nonlocal escalates
            new = escalated(site, now.with_answer(chat, text=text, finish=finish), now_s) if now.awaits(chat) else now
            escalates = new.state != now.state
            return new

        done = await self.change(site, session, answered)
        await self._store.let_go(session, chat)
        if escalates:
            await self._announce(site, done)
        return done

    async def change(
        self, site: WidgetSite, session: str, changed: Callable[[Conversation], Conversation]
    ) -> Conversation:
        """Write what `changed` makes of a conversation, whoever else writes. Raises Refused, QueueUnavailable."""
        done = await self._store.change(site.bot, session, site.widget.keep_days, self._gateway.clock(), changed)
        if done is None:
            raise Refused(Code.NOT_FOUND, "This conversation does not exist, or it has expired.")
        return done

    async def relay(self, ticket: Ticket, after: str, confirm: Confirmation | None = None) -> AsyncIterator[bytes]:
        """Server-sent events of one answer from `after` on: text with ids, then one `end`. Pings when idle.

        `confirm`: what the answer asks the visitor to confirm."""
        readers = self._gateway.readers
        with self._gateway.hub.follow(ticket.chat, after) as reader:
            readers.add(reader)  # woken at a shutdown
            try:
                async for entries in self._entries(ticket.chat, reader):
                    yield b"".join(event_of(entry, confirm, ticket) for entry in entries) or PING
            finally:
                readers.discard(reader)

    async def _entries(self, chat: str, reader: Reader) -> AsyncIterator[list[ReplyEntry]]:
        told_s = float("-inf")
        while not self._gateway.hand_over:
            if monotonic() - told_s > READ_S / 3:
                with contextlib.suppress(QueueUnavailable):
                    await self._store.reading(chat)
                told_s = monotonic()
            entries = await reader.read(self._gateway.config.gateway.ping_s)
            yield entries
            if any(entry.end for entry in entries):
                return


def not_found() -> Refused:
    """The refusal of a session that the bot does not have, or not for this visitor."""
    return Refused(Code.NOT_FOUND, "This conversation does not exist, or it has expired.")


def alternating(said: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages of (who, text). What one side said in a row is one message: many templates refuse two users' turns.

    A question whose answer ended without a word stays in the conversation so.
    """
    return [
        {"role": role, "content": "\n\n".join(text for _, text in turns)}
        for role, turns in groupby(said, key=lambda turn: "user" if turn[0] == "visitor" else "assistant")
    ]


def sources_of(ticket: Ticket) -> tuple[Source, ...]:
    """What an answer was made from, as the widget shows it."""
    return tuple(Source(title=title, url=url or None) for title, url in ticket.sources)


def event_of(entry: ReplyEntry, confirm: Confirmation | None = None, ticket: Ticket | None = None) -> bytes:
    """One entry as the widget reads it: no thoughts, no calls."""
    if entry.text and entry.content is not ContentKind.CONTENT:
        return b""
    if entry.text:
        return event({"text": entry.text}, entry_id=entry.id)
    if entry.end is None:
        return b""
    shown: dict[str, object] = {
        "finish": entry.end.finish.value,
        "confirm": confirm.model_dump() if confirm is not None else None,
    }
    if ticket is not None:
        shown |= {"sources": [source.model_dump() for source in sources_of(ticket)], "missed": ticket.missed}
    if entry.end.finish in WORDS:
        shown["message"] = WORDS[entry.end.finish]
    return event(shown, name="end")


def for_visitor(refused: Refused) -> Refused:
    """The refusal of a message, without the tenant's limits, its use of them, or the host's inner state."""
    if refused.code is Code.CONTEXT_LENGTH:
        return Refused(refused.code, "This message is too long. Please shorten it.")
    if refused.row.status == 429:
        words = "Too many messages are being written right now. Please try again in a moment."
        return Refused(Code.QUEUE_FULL, words, retry_after_s=refused.retry_after_s, counted_as=refused.code)
    words = "This chat is not available right now. Please try again later."
    return Refused(Code.QUEUE_UNAVAILABLE, words, counted_as=refused.code)
