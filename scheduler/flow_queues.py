"""Flow queues: one per tenant and model, each in order of service.

Order in a queue: turns of sessions that hold a lease, then new sessions; within both by priority (higher first), then
by age. Queues are short sorted lists: finding a place is O(log n), and moving the pointers behind it costs less than
keeping a heap that can drop its worst entry.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from scheduler.admission import Options
from services.contracts.chats import Ticket
from services.contracts.decisions import Decision
from services.contracts.engines import EngineFacts

Place = tuple[bool, int, float, int]  # new session, minus priority, created_s, arrival number
_place = attrgetter("place")


@dataclass(slots=True, eq=False)
class Waiting:
    """A ticket in its flow."""

    ticket: Ticket
    place: Place
    flow: FlowQueue = field(repr=False)
    turn: bool  # of a session that was let in before
    overtaken: int = 0  # chats that went before it although it was first
    facts: EngineFacts | None = None
    options: Options = ()  # what admission may try for it, by `facts`
    least_bytes: int = 0  # what it needs at its lowest precision; 0 while its engine is unknown
    refused: Decision | None = None  # by `facts`, whatever else it waits for
    looked_at: bool = False
    retry_bytes: int = 0  # with less available than this it does not fit, as far as is known

    def weighed(self, facts: EngineFacts, options: Options, refused: Decision | None) -> None:
        """What admission may try for it on this engine, or why it never lets it in."""
        self.facts, self.options, self.refused = facts, options, refused
        self.least_bytes = options[-1][1] if options else 0


@dataclass(slots=True, eq=False)
class FlowQueue:
    """What one tenant has waiting for one model."""

    tenant: str
    model: str
    waiting: list[Waiting] = field(default_factory=list)
    blocked: Decision | None = None  # why its head waited when it was last looked at

    def insert(self, entry: Waiting) -> None:
        waiting = self.waiting
        if not waiting or waiting[-1].place < entry.place:
            waiting.append(entry)
        else:
            waiting.insert(self.ahead(entry), entry)

    def remove(self, entry: Waiting) -> None:
        if self.waiting[0] is entry:
            del self.waiting[0]
        else:
            del self.waiting[self.ahead(entry)]

    def ahead(self, entry: Waiting) -> int:
        """How many of the flow go before it."""
        if self.waiting and self.waiting[-1] is entry:
            return len(self.waiting) - 1
        return bisect_left(self.waiting, entry.place, key=_place)


class FlowQueues:
    """All flows, by chat, tenant and model."""

    def __init__(self) -> None:
        self.entries: dict[str, Waiting] = {}
        self.per_tenant: dict[str, int] = {}
        self.per_model: dict[str, dict[str, FlowQueue]] = {}  # flows that are not empty, by tenant
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, chat: str) -> bool:
        return chat in self.entries

    def add(self, ticket: Ticket, turn: bool) -> Waiting:
        """Enter a ticket; `turn`: its session holds a lease."""
        self._arrivals += 1
        tenant, model = ticket.tenant, ticket.model
        flows = self.per_model.get(model)
        if flows is None:
            flows = self.per_model[model] = {}
        flow = flows.get(tenant)
        if flow is None:
            flow = flows[tenant] = FlowQueue(tenant, model)
        entry = Waiting(ticket, (not turn, -ticket.priority, ticket.created_s, self._arrivals), flow, turn)
        flow.insert(entry)
        self.entries[ticket.chat] = entry
        self.per_tenant[tenant] = self.per_tenant.get(tenant, 0) + 1
        return entry

    def remove(self, entry: Waiting) -> None:
        """Take a ticket out."""
        flow = entry.flow
        tenant = flow.tenant
        del self.entries[entry.ticket.chat]
        flow.remove(entry)
        if not flow.waiting:
            del self.per_model[flow.model][tenant]
        left = self.per_tenant[tenant] - 1
        if left:
            self.per_tenant[tenant] = left
        else:
            del self.per_tenant[tenant]

    def flow(self, tenant: str, model: str) -> FlowQueue | None:
        flows = self.per_model.get(model)
        return None if flows is None else flows.get(tenant)

    def flows(self) -> Iterator[FlowQueue]:
        """All flows that are not empty."""
        return (flow for flows in self.per_model.values() for flow in flows.values())

    def longest(self) -> str | None:
        """The tenant with the most tickets. O(tenants): asked only when the queue is full."""
        return max(self.per_tenant, key=self.per_tenant.__getitem__, default=None)

    def youngest_new(self, tenant: str) -> Waiting | None:
        """The tenant's new session that would be served last, or None."""
        last: Waiting | None = None
        for flows in self.per_model.values():
            flow = flows.get(tenant)
            if flow is not None:
                entry = flow.waiting[-1]
                if not entry.turn and (last is None or entry.place > last.place):
                    last = entry
        return last

    def models(self) -> Iterator[str]:
        """Models that something waits for."""
        return (model for model, flows in self.per_model.items() if flows)

    def check_integrity(self) -> None:
        """Raise AssertionError where a ticket is in no flow, in two, or out of order."""
        seen: dict[str, Waiting] = {}
        for flow in self.flows():
            places = [entry.place for entry in flow.waiting]
            if not places or places != sorted(places) or any(entry.flow is not flow for entry in flow.waiting):
                raise AssertionError(f"{flow.tenant} {flow.model}: flow is empty or out of order")
            seen.update((entry.ticket.chat, entry) for entry in flow.waiting)
        if seen != self.entries or sum(self.per_tenant.values()) != len(seen):
            raise AssertionError(f"{len(self.entries)} tickets wait, {len(seen)} are in flows")
