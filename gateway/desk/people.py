"""Conversations go to people and back: on request, by rule, and when the bot did not know twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from gateway.desk.phrases import asks_for_person
from gateway.state import Gateway
from gateway.widget.handover import Outbox
from gateway.widget.sites import WidgetSite
from services.config.localized import DEFAULT_LANGUAGE, in_language, language_of
from services.store.conversations import Conversation, ConversationState, ConversationStore, ConversationTurn

Changed = Callable[[Conversation], Conversation]


def is_away(site: WidgetSite, now_s: float) -> bool:
    """Whether nobody is there right now."""
    hours = site.widget.office_hours
    return hours is not None and not hours.open_at(now_s)


def hands_over(site: WidgetSite, text: str) -> bool:
    """Whether a message goes to a person rather than to the bot."""
    people = site.widget.handover
    return people is not None and people.on_request and asks_for_person(text, people.words)


def waiting(conversation: Conversation, now_s: float) -> Conversation:
    """The same, waiting for a person. One that has a person stays with them."""
    if conversation.with_people:
        return conversation
    return conversation.model_copy(update={"state": "waiting", "handed_over_s": now_s})


def escalated(site: WidgetSite, conversation: Conversation, now_s: float) -> Conversation:
    """Waiting for a person, where the bot did not know `missed_max` times in a row and somebody is there."""
    people = site.widget.handover
    if people is None or not people.missed_max or conversation.state != "bot" or is_away(site, now_s):
        return conversation
    answers = (turn for turn in reversed(conversation.turns) if turn.who == "bot" and turn.finish is not None)
    last = list(islice(answers, people.missed_max))
    missed = len(last) == people.missed_max and all(turn.missed for turn in last)
    return waiting(conversation, now_s) if missed else conversation


class People:
    """What visitors say to people, and people to visitors. Methods raise QueueUnavailable.

    They return None where there is no such conversation.
    """

    def __init__(self, gateway: Gateway, store: ConversationStore, outbox: Outbox) -> None:
        self._gateway = gateway
        self._store = store
        self._outbox = outbox

    async def hear(self, site: WidgetSite, conversation: Conversation, text: str) -> Conversation | None:
        """Take in a visitor's message that no bot answers. While nobody is there, they are told so."""
        now_s = self._gateway.clock()
        said = ConversationTurn(who="visitor", text=text, at_s=now_s)
        hours = site.widget.office_hours
        if hours is not None and is_away(site, now_s) and not conversation.with_people:
            words = in_language(hours.away, language_of(conversation.language) or DEFAULT_LANGUAGE)
            away = ConversationTurn(who="bot", text=words, at_s=now_s, finish="stop")
            return await self._change(site, conversation, lambda now: now.with_turns(said, away))
        heard = await self._change(site, conversation, lambda now: waiting(now.with_turns(said), now_s))
        if heard is not None and not conversation.with_people:
            await self.announce(site, heard)
        return heard

    async def announce(self, site: WidgetSite, conversation: Conversation) -> None:
        """Tell the bot's webhook of a conversation that waits."""
        if site.widget.announces:
            await self._outbox.put(site, conversation, contact=conversation.contact, note="", page="")

    async def _change(self, site: WidgetSite, conversation: Conversation, changed: Changed) -> Conversation | None:
        keep_days, now_s = site.widget.keep_days, self._gateway.clock()
        return await self._store.change(site.bot, conversation.session, keep_days, now_s, changed)


def replied(conversation: Conversation, text: str, name: str, now_s: float) -> Conversation:
    """The same with a person's turn. Whoever writes has the conversation."""
    turn = ConversationTurn(who="person", text=text, at_s=now_s, name=name)
    handed_over_s = conversation.handed_over_s or now_s
    return conversation.with_turns(turn).model_copy(update={"state": "person", "handed_over_s": handed_over_s})


def moved(conversation: Conversation, state: ConversationState) -> Conversation:
    """The same in another state."""
    return conversation.model_copy(update={"state": state})
