"""The wait queue: flow queues, the order in which tenants are served, and tenants that are throttled.

Bounds: `waiting_per_tenant_max` and `waiting_max`. Where one is reached, a turn of an admitted session, or a ticket of
a tenant with a shorter queue, displaces the youngest new session of the crowded tenant; any other ticket is turned
away. A tenant at a limit of its own is throttled: out of the order, so that it costs nobody time, until a chat of its
own ends.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from scheduler.fairness import Counters
from scheduler.fairness_order import FairnessOrder
from scheduler.flow_queues import FlowQueue, FlowQueues, Waiting
from scheduler.settings import SchedulerSettings
from scheduler.timers import Timers
from services.contracts.chats import Ticket


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
