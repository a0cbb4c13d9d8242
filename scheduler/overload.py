"""The answer to a ticket that cannot be served in time.

Overflow where the bot allows another provider, else reject. What a chat may cost there at most has to be left of its
tenant's money; a chat that only lacks memory waits on until it is. `retry_after_s` is the time in which the tenant's
queue is expected to drain (estimates.py), within 1..120 s, since openai-python gives up on longer ones; 1 s where
nothing is known. New sessions whose expected wait passes their deadline are refused as they come; turns of admitted
sessions never are, and wait until the deadline itself.
"""

from __future__ import annotations

from math import ceil

from scheduler.accounting import Accounting
from scheduler.decision_log import DecisionLog
from scheduler.estimates import expected_wait_s
from scheduler.settings import SchedulerSettings
from scheduler.wait_queue import Waiting, WaitQueue
from services.contracts.chats import Ticket, TokenPrice
from services.contracts.decisions import Decision, Outcome, Reason

RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 1.0, 120.0
_ASK_AGAIN_S = 1.0


class Overload:
    """Expected waits and refusals."""

    def __init__(self, accounting: Accounting, wait_queue: WaitQueue, decision_log: DecisionLog) -> None:
        self._accounting = accounting
        self._wait_queue = wait_queue
        self._decision_log = decision_log
        self.overflow_budgets: dict[
            str, int
        ] = {}  # micro-dollars that tenants with a cap have left for other providers

    def expected_wait_s(self, entry: Waiting) -> float | None:
        """Seconds until a waiting ticket is served, as far as that is known."""
        return self._wait_s(entry.ticket, entry.flow.ahead(entry))

    def hopeless(self, entry: Waiting, now_s: float) -> bool:
        """Whether a ticket that just came is better refused now than at its deadline."""
        ticket = entry.ticket
        if entry.turn or ticket.overflow:
            return False
        wait_s = self._wait_s(ticket, entry.flow.ahead(entry))
        return wait_s is not None and now_s + wait_s > ticket.deadline_s

    def overflows(self, entry: Waiting, now_s: float) -> Reason | None:
        """Why a ticket that waited `overflow_after_s` goes to another provider, or None.

        A tenant at a limit of its own, or without the money, is not helped out; its ticket is looked at again a second
        later.
        """
        decision = self._accounting.decide(entry, now_s)
        if decision.reason is Reason.TENANT_LIMIT or not self._affords(entry.ticket):
            self._wait_queue.timers.at(now_s + _ASK_AGAIN_S, "overflow", entry.ticket.chat)
            return None
        return Reason.KV_MEMORY if decision.reason is Reason.ROOM else decision.reason

    def _affords(self, ticket: Ticket) -> bool:
        """Whether its tenant has the money, which is taken then."""
        left, cost = self.overflow_budgets.get(ticket.tenant), microusd(ticket, self._accounting.settings)
        if left is None:
            return True
        if cost > left:
            return False
        self.overflow_budgets[ticket.tenant] = left - cost
        return True

    def refuse(self, ticket: Ticket, reason: Reason, now_s: float) -> Decision:
        """The answer to a ticket that is out of the queues already."""
        outcome = Outcome.OVERFLOW if ticket.overflow and reason is not Reason.DEADLINE else Outcome.REJECT
        queues = self._wait_queue.queues
        flow = queues.flow(ticket.tenant, ticket.model)
        wait_s = self._wait_s(ticket, len(flow.waiting) if flow else 0)
        decision = Decision(
            ticket.chat,
            outcome,
            reason,
            ticket.kv_bits,
            retry_after_s=min(RETRY_AFTER_S_MAX, max(RETRY_AFTER_S_MIN, wait_s or 0.0)),
            expected_wait_s=wait_s,
            numbers={"waiting": len(queues), "waiting_tenant": queues.per_tenant.get(ticket.tenant, 0)},
        )
        return self._decision_log.record(ticket, decision, now_s)

    def _wait_s(self, ticket: Ticket, ahead: int) -> float | None:
        settings, account = self._accounting.settings, self._accounting.ledger.accounts.get(ticket.model)
        running = len(account.reservations) if account else 0
        per_s = self._accounting.service_rate.per_s(ticket.model, running)
        if per_s is None:
            return None
        mine, weights = settings.share(ticket.tenant).weight, self._wait_queue.weight_waiting(ticket.model)
        waits = self._wait_queue.queues.flow(ticket.tenant, ticket.model) is not None
        others = weights - (mine if waits else 0.0)
        return expected_wait_s(per_s, ahead, mine / (mine + others))


def microusd(ticket: Ticket, settings: SchedulerSettings) -> int:
    """The most that a chat can cost at its bot's other provider."""
    price = settings.overflow_prices.get(ticket.overflow_to or "", TokenPrice())
    return ceil(price.microusd(ticket.prompt_tokens, ticket.max_tokens))
