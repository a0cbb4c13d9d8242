"""The waiting room: one lane per tenant and model, each in order of service.

Order in a lane: turns of sessions that hold a lease, then new sessions; within both by priority
(higher first), then by age. Lanes are short sorted lists: finding a place is O(log n), and moving the
pointers behind it costs less than keeping a heap that can drop its worst entry.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from scheduler.admission import Options
from scheduler.types import Decision, EngineFacts, Ticket

Place = tuple[bool, int, float, int]  # new session, minus priority, created_s, arrival number
_place = attrgetter("place")


@dataclass(slots=True)
class Waiting:
    """A ticket in its lane."""

    ticket: Ticket
    place: Place
    overtaken: int = 0  # chats that went before it although it was first
    options: Options = ()  # what admission may try for it, by `facts`
    facts: EngineFacts | None = None
    looked_at: bool = False
    short_bytes: int = 0  # with less than this to be had it finds no room, for all that is known

    @property
    def least_bytes(self) -> int:
        """What it needs at its lowest precision; 0 while its engine is unknown."""
        return self.options[-1][1] if self.options else 0

    @property
    def turn(self) -> bool:
        """Whether it belongs to a session that was let in before."""
        return not self.place[0]


@dataclass(slots=True)
class Lane:
    """What one tenant has waiting for one model."""

    tenant: str
    model: str
    waiting: list[Waiting] = field(default_factory=list)
    blocked: Decision | None = None  # why its head waited when it was last looked at

    def insert(self, entry: Waiting) -> None:
        self.waiting.insert(self.ahead(entry), entry)

    def remove(self, entry: Waiting) -> None:
        del self.waiting[self.ahead(entry)]

    def ahead(self, entry: Waiting) -> int:
        """How many of the lane go before it."""
        return bisect_left(self.waiting, entry.place, key=_place)


class Queues:
    """All lanes, by chat, tenant and model."""

    def __init__(self) -> None:
        self.entries: dict[str, Waiting] = {}
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.per_tenant: dict[str, int] = {}
        self.per_model: dict[str, dict[str, Lane]] = {}  # lanes that are not empty, by tenant
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, chat: str) -> bool:
        return chat in self.entries

    def add(self, ticket: Ticket, turn: bool) -> Waiting:
        """Enter a ticket; `turn`: its session holds a lease."""
        self._arrivals += 1
        entry = Waiting(ticket, (not turn, -ticket.priority, ticket.created_s, self._arrivals))
        key = (ticket.tenant, ticket.model)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(*key)
        lane.insert(entry)
        self.entries[ticket.chat] = entry
        self.per_tenant[ticket.tenant] = self.per_tenant.get(ticket.tenant, 0) + 1
        self.per_model.setdefault(ticket.model, {})[ticket.tenant] = lane
        return entry

    def remove(self, chat: str) -> Waiting | None:
        """Take a ticket out. Unknown chats: None."""
        entry = self.entries.pop(chat, None)
        if entry is None:
            return None
        ticket = entry.ticket
        key = (ticket.tenant, ticket.model)
        lane = self.lanes[key]
        lane.remove(entry)
        if not lane.waiting:
            del self.lanes[key], self.per_model[ticket.model][ticket.tenant]
        left = self.per_tenant[ticket.tenant] - 1
        if left:
            self.per_tenant[ticket.tenant] = left
        else:
            del self.per_tenant[ticket.tenant]
        return entry

    def lane(self, tenant: str, model: str) -> Lane | None:
        return self.lanes.get((tenant, model))

    def lane_of(self, ticket: Ticket) -> Lane:
        return self.lanes[ticket.tenant, ticket.model]

    def longest(self) -> str | None:
        """The tenant with the most tickets. O(tenants): asked only when the room is full."""
        return max(self.per_tenant, key=self.per_tenant.__getitem__, default=None)

    def youngest_new(self, tenant: str) -> Waiting | None:
        """The tenant's new session that would be served last, or None."""
        last: Waiting | None = None
        for lanes in self.per_model.values():
            lane = lanes.get(tenant)
            if lane is not None:
                entry = lane.waiting[-1]
                if not entry.turn and (last is None or entry.place > last.place):
                    last = entry
        return last

    def models(self) -> Iterator[str]:
        """Models that something waits for."""
        return (model for model, lanes in self.per_model.items() if lanes)

    def check_integrity(self) -> None:
        """Raise AssertionError where a ticket is in no lane, in two, or out of order."""
        seen: dict[str, Waiting] = {}
        for (tenant, model), lane in self.lanes.items():
            places = [entry.place for entry in lane.waiting]
            if not places or places != sorted(places):
                raise AssertionError(f"{tenant} {model}: lane is empty or out of order")
            seen.update((entry.ticket.chat, entry) for entry in lane.waiting)
        if seen != self.entries or sum(self.per_tenant.values()) != len(seen):
            raise AssertionError(f"{len(self.entries)} tickets wait, {len(seen)} are in lanes")
