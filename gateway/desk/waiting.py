"""Visitors who wait for a person, while there are people to answer them."""

from __future__ import annotations

from dataclasses import dataclass

from services.store.connection import Connection
from services.store.conversation_index import ConversationIndex
from services.store.registry import Registry


@dataclass(frozen=True, slots=True)
class WaitingVisitors:
    """How many wait, and how long the first of them has. Those who came outside the office hours wait from then on."""

    count: int = 0
    longest_s: float = 0.0


async def waiting_visitors(connection: Connection, registry: Registry, now_s: float) -> WaitingVisitors:
    """Of all bots whose people are there now. Raises QueueUnavailable."""
    since_s = []
    for found in await ConversationIndex(connection).open():
        tenant, _, name = found.conversation.bot.partition("/")
        bot = registry.bot(tenant, name)
        hours = bot.widget.office_hours if bot is not None and bot.widget is not None else None
        if found.conversation.state == "waiting" and (hours is None or hours.open_at(now_s)):
            since_s.append(found.at_s if hours is None else max(found.at_s, hours.opened_s(now_s)))
    return WaitingVisitors(len(since_s), max((now_s - at_s for at_s in since_s), default=0.0))
