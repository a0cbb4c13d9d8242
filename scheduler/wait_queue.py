"""The wait queue: flow queues, the order in which tenants are served, leases of sessions, and timers.

Bounds: `waiting_per_tenant_max` and `waiting_max`. Where one is reached, a turn of an admitted session, or a ticket of
a tenant with a shorter queue, displaces the youngest new session of the crowded tenant; any other ticket is turned
away. A tenant at a limit of its own is throttled: out of the order, so that it costs nobody time, until a chat of its
own ends.

**Flow queues**: one per tenant and model. Order in a queue: turns of sessions that hold a lease, then new sessions;
within both by priority (higher first), then by age. Queues are short sorted lists: finding a place is O(log n), and
moving the pointers behind it costs less than keeping a heap that can drop its worst entry.

**Leases**: a session that was let in keeps its place between turns. While a chat of a session runs, and
`session_idle_s` after it, the session's next turns go before the tenant's new sessions and are not refused early. A
lease holds no bytes: what it keeps of the conversation is the engine's prefix cache, which is reclaimable.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from operator import attrgetter

from scheduler.admission import Options
from scheduler.fairness import Counters, FairnessOrder
from scheduler.settings import SchedulerSettings
from services.contracts.chats import Ticket
from services.contracts.decisions import Decision
from services.contracts.engines import EngineFacts


class WaitQueue:
    """Everything about tickets that wait."""

    def __init__(self, counters: Counters, settings: SchedulerSettings) -> None:
        self._settings = settings
        self.queues = FlowQueues()
        self.timers = Timers()
        self._counters = counters
        # by model: tenants with something waiting for it, least service first. What a tenant gets at one model moves it
        # in another's order at the next review only: 14 chats of 6,000 out of turn, where 100 a second go through each.
        self.orders = defaultdict[str, FairnessOrder](
            lambda: FairnessOrder(counters.keys, self._settings.lookahead_max)
        )
        self._throttled: dict[str, dict[str, None]] = {}  # tenant -> models
        # by model and weight: tenants with something waiting. Counts, since a sum of weights would drift.
        self._weights = self._counted()

    def configure(self, settings: SchedulerSettings) -> None:
        """Other bounds."""
        self._settings = settings
        self.orders.clear()
        self._throttled.clear()
        self._weights = self._counted()
        for flow in self.queues.flows():
            self.orders[flow.model].add(flow.tenant)

    def weight_waiting(self, model: str) -> float:
        """The sum of the weights of all tenants that wait for the model. O(different weights)."""
        return sum([weight * tenants for weight, tenants in self._weights[model].items()])

    def _counted(self) -> defaultdict[str, Counter[float]]:
        weights = defaultdict[str, Counter[float]](Counter)
        for flow in self.queues.flows():
            weights[flow.model][self._settings.share(flow.tenant).weight] += 1
        return weights

    def crowded_out(self, ticket: Ticket, turn: bool) -> Ticket | None:
        """Which ticket must go so that this one can wait: None, another, or this one itself."""
        queues, tenant, settings = self.queues, ticket.tenant, self._settings
        mine = queues.per_tenant.get(tenant, 0)
        if mine >= settings.waiting_per_tenant_max:
            crowded: str | None = tenant
        elif len(queues.entries) >= settings.waiting_max:
            crowded = queues.longest()
        else:
            return None
        if crowded is None:
            return ticket
        longer = crowded != tenant and queues.per_tenant[crowded] > mine + 1
        displaced = queues.youngest_new(crowded) if turn or longer else None
        return displaced.ticket if displaced is not None else ticket

    def enter(self, ticket: Ticket, turn: bool) -> Waiting:
        """The ticket waits from now on."""
        entry = self.queues.add(ticket, turn)
        if len(entry.flow.waiting) == 1:  # a flow that was there has its place, or is throttled
            self._counters.enter(ticket.tenant)
            self.orders[ticket.model].add(ticket.tenant)
            self._weights[ticket.model][self._settings.share(ticket.tenant).weight] += 1
        self.timers.at(ticket.deadline_s, "deadline", ticket.chat)
        if ticket.overflow:
            self.timers.at(ticket.created_s + self._settings.overflow_after_s, "overflow", ticket.chat)
        return entry

    def leave(self, entry: Waiting) -> None:
        """The ticket waits no more."""
        flow = entry.flow
        tenant = flow.tenant
        self.queues.remove(entry)
        if flow.waiting:
            return
        self.orders[flow.model].discard(tenant)
        weights, weight = self._weights[flow.model], self._settings.share(tenant).weight
        weights[weight] -= 1
        if not weights[weight]:
            del weights[weight]
        if tenant in self._throttled:
            self._throttled[tenant].pop(flow.model, None)
        if tenant not in self.queues.per_tenant:
            self._counters.leave(tenant)

    def throttle(self, flow: FlowQueue) -> None:
        """Take the tenant out of the model's order until `resume`."""
        self._throttled.setdefault(flow.tenant, {})[flow.model] = None
        self.orders[flow.model].discard(flow.tenant)

    def resume(self, tenant: str) -> list[str]:
        """Back into the order. Returns the models where the tenant has something waiting."""
        if tenant not in self._throttled:
            return []
        models = [model for model in self._throttled.pop(tenant) if self.queues.flow(tenant, model) is not None]
        for model in models:
            self.orders[model].add(tenant)
        return models

    def prune(self) -> None:
        """Keep the timers of withdrawn tickets from piling up."""
        self.timers.prune(self._counts, len(self.queues.entries))

    def _counts(self, name: str) -> bool:
        return name in self.queues or name in self.orders

    def check_integrity(self) -> None:
        """Raise AssertionError where the queues, or the weights of those that wait, are not what the flows hold."""
        self.queues.check_integrity()
        counted = {model: weights for model, weights in self._weights.items() if weights}
        if counted != self._counted():
            raise AssertionError(f"weights {counted} are counted, the flows have {dict(self._counted())}")


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


@dataclass(slots=True)
class Lease:
    """A session's place. `tokens` is how much of it the engine saw last."""

    running: int = 0
    until_s: float = 0.0
    tokens: int = 0


class SessionLeases:
    """Leases by (tenant, session). Each operation is O(log n), amortised."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, str], Lease] = {}
        self._ends: list[tuple[float, tuple[str, str]]] = []

    def __len__(self) -> int:
        return len(self._leases)

    def begin(self, tenant: str, session: str) -> None:
        """A chat of the session was let in."""
        self._lease((tenant, session)).running += 1

    def _lease(self, key: tuple[str, str]) -> Lease:
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = Lease()
        return lease

    def end(self, tenant: str, session: str, until_s: float, tokens: int) -> None:
        """A chat of the session is done; the lease runs until `until_s`."""
        key = (tenant, session)
        lease = self._lease(key)
        if lease.running > 0:
            lease.running -= 1
        lease.until_s = max(lease.until_s, until_s)
        if tokens:
            lease.tokens = tokens
        heappush(self._ends, (until_s, key))

    def drop(self, tenant: str, session: str) -> None:
        """A chat that was let in never ran: no lease comes from it."""
        key = (tenant, session)
        lease = self._leases.get(key)
        if lease is not None:
            lease.running -= 1
            heappush(self._ends, (lease.until_s, key))

    def held(self, tenant: str, session: str, now_s: float) -> Lease | None:
        """The session's lease, if it has one now."""
        while self._ends and self._ends[0][0] < now_s:
            _, key = heappop(self._ends)
            lease = self._leases.get(key)
            if lease is not None and not lease.running and lease.until_s < now_s:
                del self._leases[key]
        return self._leases.get((tenant, session))


class Timers:
    """A timer cannot be taken back: whoever set it checks whether it still counts. O(log n) each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, str]] = []

    def at(self, when_s: float, what: str, name: str) -> None:
        heappush(self._heap, (when_s, what, name))

    def due(self, now_s: float) -> Iterator[tuple[str, str]]:
        """(what, name) of all that are due, earliest first. Timers set meanwhile for now count too."""
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            _, what, name = heappop(heap)
            yield what, name

    def prune(self, counts: Callable[[str], bool], live: int) -> None:
        """Drop timers whose name no longer counts, once they are most of what is here."""
        if len(self._heap) > 4 * live + 4096:
            self._heap[:] = [timer for timer in self._heap if counts(timer[2])]
            heapify(self._heap)

    def next_s(self) -> float | None:
        return self._heap[0][0] if self._heap else None
