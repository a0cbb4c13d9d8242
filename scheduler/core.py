"""The scheduler: what waits, who is next, what is decided.

    step():   timers that are due -> each model with news: fill it -> refuse what would wait too long
    _fill():  the tenant with the least service -> decide for its first ticket -> reserve, or look past it

Single-threaded and pure: no input or output, no clock of its own. Every method that needs the time is
given it (`now_s`, Unix seconds). The caller carries decisions out and tells what came of them: `settle`
when a chat ended, `undo` when a dispatch was refused, `demoted` when a live session was lowered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from scheduler import demotion
from scheduler.admission import TenantView, closed_to_all, decide, never
from scheduler.bandwidth import Device
from scheduler.demotion import Demotion
from scheduler.drain import Drain
from scheduler.explain import Explain
from scheduler.fairness import Counters, LeastFirst, Present
from scheduler.ledger import Ledger, reserve_bytes
from scheduler.limits import Limits
from scheduler.queues import Lane, Queues, Timers, Waiting
from scheduler.sessions import Sessions
from scheduler.settings import SchedulerSettings
from scheduler.snapshot import Snapshot, take
from scheduler.types import (
    Decision,
    EngineFacts,
    EngineReport,
    EngineState,
    KvBits,
    Outcome,
    Reason,
    Reservation,
    Ticket,
    Usage,
)

_RETRY_AFTER_S = (1.0, 120.0)  # openai-python gives up on longer ones
_BANDWIDTH_REASONS = (Reason.BANDWIDTH, Reason.FIRST_TOKEN)


@dataclass(slots=True)
class Admitted:
    """What was charged for a chat when it was let in."""

    ticket: Ticket
    cost: float
    tokens: float
    prefill_s: float


class Scheduler:
    """Decides which chats run. See the module's docstring for the way of one step."""

    def __init__(self, settings: SchedulerSettings, models: Mapping[str, EngineFacts] | None = None) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.device = Device(settings)
        self.counters = Counters(settings)
        self.sessions = Sessions()
        self.limits = Limits()
        self.queues = Queues()
        self.drain = Drain()
        self.explained = Explain()
        self._timers = Timers()
        self._orders: dict[str, LeastFirst] = {}
        self._present: dict[str, Present] = {}
        self._admitted: dict[str, Admitted] = {}
        self._out: list[Decision] = []
        self._fresh: list[str] = []
        self._news: set[str] = set()  # models to look at in the next step
        self._stuck: dict[str, Waiting] = {}  # by model: the first ticket in fair order that found no room
        self._bandwidth_waits: set[str] = set()  # models where something waits for bandwidth
        self._paced: set[str] = set()  # models with a timer for the end of their prefill backlog
        self._parked: dict[str, set[str]] = {}  # tenant at a limit -> models it waits for
        self._review_s = 0.0
        for facts in (models or {}).values():
            self.engine_started(facts, float("-inf"))  # counts as full until its first report

    # What happens around the scheduler

    def configure(self, settings: SchedulerSettings) -> None:
        """Take over other shares, targets and bounds, live."""
        if settings == self.settings:
            return
        self.settings = settings
        self.counters.settings = settings
        self.device.configure(settings)
        for present in self._present.values():
            present.configure(settings)
        for tenant in list(self._parked):
            self._unpark(tenant)
        self._review_s = 0.0

    def engine_started(self, facts: EngineFacts, now_s: float) -> None:
        """An engine answers for the first time, or again with other flags."""
        self.ledger.started(facts, now_s)
        self.device.started(facts)
        self._news.add(facts.model)

    def engine_reported(self, report: EngineReport) -> None:
        """Load of one engine. Unknown engines' are dropped (facts come first), and so are old or repeated ones."""
        account = self.ledger.accounts.get(report.model)
        if account is None or report.at_s < account.heard_s or report == account.report:
            return
        account.reported(report, self.settings.drift_bytes_max)
        self.device.reported(report)
        self._news.add(report.model)

    def restore(self, reservations: Iterable[Reservation], now_s: float) -> None:
        """Take over from another scheduler: these chats are running. What waits arrives through `arrive`."""
        self.ledger.restore(reservations)
        self.device.clear()
        self._admitted.clear()
        self.limits = Limits()
        self.sessions = Sessions()
        for held in self.ledger:
            self.device.add(held.model, held.reserved_bytes)
            self.limits.take(held.tenant, held.reserved_bytes, 0.0)
            self.sessions.begin(held.tenant, held.session)
        self._review_s = now_s

    def arrive(self, ticket: Ticket, now_s: float) -> None:
        """A chat asks to be let in. Telling the same chat again changes nothing."""
        if ticket.chat in self.queues or self.ledger.get(ticket.chat) is not None:
            return
        account = self.ledger.accounts.get(ticket.model)
        refused = never(ticket, account.facts, self.settings) if account else None
        if refused is not None:
            self._out.append(self.explained.decided(ticket, refused, now_s))
            return
        turn = self.sessions.held(ticket.tenant, ticket.session, now_s) is not None
        if not self._make_room(ticket, turn, now_s):
            return
        self.queues.add(ticket, turn)
        self.counters.enter(ticket.tenant)
        present = self._present.get(ticket.model)
        if present is None:
            present = self._present[ticket.model] = Present(self.settings)
            self._orders[ticket.model] = LeastFirst(self.counters.key)
        present.saw(ticket.tenant, now_s)
        if ticket.tenant not in self._parked or ticket.model not in self._parked[ticket.tenant]:
            self._orders[ticket.model].add(ticket.tenant)
        self._timers.at(ticket.deadline_s, "deadline", ticket.chat)
        if ticket.overflow:
            self._timers.at(ticket.created_s + self.settings.overflow_after_s, "overflow", ticket.chat)
        self._fresh.append(ticket.chat)
        self._news.add(ticket.model)

    def cancel(self, chat: str, now_s: float) -> None:
        """The client went away before the chat ran: out of the queue, or out of the ledger. No charge."""
        entry = self.queues.entries.get(chat)
        if entry is not None:
            self._leave(entry)
            return
        admitted = self._admitted.pop(chat, None)
        held = self._release(chat, now_s, admitted.tokens if admitted else 0.0)
        if held is None:
            return
        self.sessions.drop(held.tenant, held.session)
        if admitted is not None:
            self._give_back(held.tenant, admitted.cost)
            self.device.prefill_undone(admitted.prefill_s)

    def undo(self, decision: Decision, now_s: float) -> None:
        """The dispatch of an admission was refused: the ticket was withdrawn meanwhile."""
        self.cancel(decision.chat, now_s)

    def settle(self, chat: str, usage: Usage | None, now_s: float) -> None:
        """A chat that ran is over. `usage` None: it died before its usage was known, and its estimate stands."""
        admitted = self._admitted.pop(chat, None)
        tokens = usage.prompt_tokens + usage.completion_tokens if usage else 0
        over = admitted.tokens - tokens if admitted and usage else -float(tokens)
        held = self._release(chat, now_s, over if usage else 0.0)
        if held is None:
            return
        self.sessions.end(held.tenant, held.session, now_s + self.settings.session_idle_s, tokens)
        if usage is None:
            return
        self.drain.settled(held.model, max(0.0, now_s - held.admitted_s))
        self.limits.completed(held.tenant, usage.completion_tokens)
        cost = self.counters.cost(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        self._give_back(held.tenant, (admitted.cost if admitted else 0.0) - cost)

    def demoted(self, chat: str, bits: KvBits, now_s: float) -> None:
        """A running session's KV was lowered to `bits`: its reservation shrinks."""
        held = self.ledger.get(chat)
        account = self.ledger.accounts.get(held.model) if held else None
        if held is None or account is None or bits >= held.kv_bits:
            return
        size = reserve_bytes(account.facts, held.tokens_max, bits, self.settings.page_tokens)
        account.remove(chat, now_s)
        account.add(replace(held, kv_bits=bits, reserved_bytes=size))
        self.device.grow(held.model, size - held.reserved_bytes)
        self.limits.of(held.tenant).kv_bytes += size - held.reserved_bytes
        self._news.add(held.model)

    # What the caller asks

    def step(self, now_s: float) -> list[Decision]:
        """Decide until nothing more moves. Admissions among the answers are already in the ledger."""
        out, self._out = self._out, []
        self._due(now_s, out)
        if now_s >= self._review_s:
            self._news.update(self.queues.models())
            self._review_s = now_s + self.settings.review_s
        while self._news:
            self._fill(self._news.pop(), now_s, out)
        self._refuse_early(now_s, out)
        return out

    def next_step_s(self) -> float | None:
        """When a step may change something although nothing happens until then. None: never."""
        if self._out or self._news:
            return 0.0
        if not self.queues.entries:
            return None
        timer_s = self._timers.next_s()
        return self._review_s if timer_s is None else min(self._review_s, timer_s)

    def waiting(self, chat: str) -> Ticket | None:
        """The chat's ticket while it waits, else None."""
        entry = self.queues.entries.get(chat)
        return entry.ticket if entry else None

    def reservations(self) -> list[Reservation]:
        """What the ledger holds."""
        return list(self.ledger)

    def wanted_models(self) -> list[str]:
        """Sleeping models that something waits for, longest queue first."""
        asleep = [
            (len(lanes), model)
            for model, lanes in self.queues.per_model.items()
            if lanes
            and (account := self.ledger.accounts.get(model)) is not None
            and account.state is EngineState.ASLEEP
        ]
        return [model for _, model in sorted(asleep, reverse=True)]

    def demotions(self) -> list[Demotion]:
        """Running sessions to lower now, so that the longest-suffering tickets fit. Tell `demoted` of each done."""
        wanted: list[Demotion] = []
        for model, entry in self._stuck.items():
            account = self.ledger.accounts.get(model)
            if account is not None:
                wanted += demotion.plan(entry.ticket, account, self.settings)
        return wanted

    def explain(self, chat: str, now_s: float) -> dict[str, object]:
        """Why the chat waits, runs or was refused, in numbers. Unknown or long gone: {"state": "unknown"}."""
        entry = self.queues.entries.get(chat)
        if entry is not None:
            ticket = entry.ticket
            decision = self._decide(ticket, self._view(ticket, now_s), now_s)
            wait_s = self.expected_wait_s(entry)
            lane = self.queues.lane_of(ticket)
            return self.explained.waiting(
                entry,
                replace(decision, position=lane.ahead(entry) + 1, expected_wait_s=wait_s),
                self.counters.values.get(ticket.tenant, 0.0),
                self._holder(ticket.model),
                now_s,
            )
        return self.explained.known(chat, self.ledger.get(chat), now_s)

    def snapshot(self, now_s: float) -> Snapshot:
        """Ledger, latencies and queues now, ready for JSON."""
        return take(self, now_s)

    def check_integrity(self) -> None:
        """Raise AssertionError where ledger, bandwidth, limits and queues disagree."""
        self.ledger.check_integrity()
        self.device.check_integrity(self.ledger)
        self.limits.check_integrity(self.ledger)
        self.queues.check_integrity()

    # One step

    def _fill(self, model: str, now_s: float, out: list[Decision]) -> None:
        """Let in what fits, in order of least service. A ticket without room is looked past, within bounds."""
        self._bandwidth_waits.discard(model)
        holder = self._holder(model)
        if holder is not None:
            self._serve_holder(holder, model, now_s, out)
            return
        order = self._orders.get(model)
        aside: list[str] = []
        looked = 0
        while order and looked < self.settings.lookahead_max and not self._closed(model, now_s):
            tenant = order.pop()
            lane = self.queues.lane(tenant, model) if tenant is not None else None
            if tenant is None or lane is None:
                continue
            entry = lane.waiting[0]
            view = self._view(entry.ticket, now_s)
            decision = self._decide(entry.ticket, view, now_s)
            if decision.outcome is not Outcome.WAIT:
                self._take(entry, decision, view, now_s, out)
                if self._holder(model) is not None:
                    break
                continue
            lane.blocked = decision
            if decision.reason is Reason.TENANT_LIMIT:
                self._park(lane, view.limit_wait_s, now_s)
                continue
            self._blocked(entry, lane, decision, view)
            aside.append(tenant)
            looked += 1
        for tenant in aside:
            if order is not None and self.queues.lane(tenant, model) is not None:
                order.add(tenant)

    def _blocked(self, entry: Waiting, lane: Lane, decision: Decision, view: TenantView) -> None:
        """Note why a lane's head waits."""
        if decision.reason in _BANDWIDTH_REASONS:
            self._bandwidth_waits.add(lane.model)
        if not view.over_share:
            self._stuck.setdefault(lane.model, entry)

    def _closed(self, model: str, now_s: float) -> bool:
        """Whether the engine takes nobody now."""
        account = self.ledger.accounts.get(model)
        closed = closed_to_all(account, self.device, self.settings, now_s) if account else (Reason.MODEL_DOWN, {})
        if closed is None:
            return False
        if closed[0] is Reason.FIRST_TOKEN and model not in self._paced:
            self._paced.add(model)
            wait_s = self.device.prefill_backlog_s(now_s) - self.settings.prefill_ahead_s_max
            self._timers.at(now_s + wait_s, "pace", model)
        return True

    def _holder(self, model: str) -> Waiting | None:
        """The ticket that was overtaken often enough, for which the model is now kept free."""
        for other, entry in self._stuck.items():
            if entry.overtaken >= self.settings.overtakes_max and (other == model or other in self._bandwidth_waits):
                return entry
        return None

    def _serve_holder(self, entry: Waiting, model: str, now_s: float, out: list[Decision]) -> None:
        """Everyone else waits until the holder has room, or turns out to wait for something else."""
        ticket = entry.ticket
        if ticket.model != model:
            return
        view = self._view(ticket, now_s)
        decision = self._decide(ticket, view, now_s)
        if decision.outcome is not Outcome.WAIT:
            self._take(entry, decision, view, now_s, out)
        elif view.over_share or decision.reason not in (Reason.KV_MEMORY, Reason.CHATS_MAX, *_BANDWIDTH_REASONS):
            entry.overtaken = 0
            del self._stuck[model]
        else:
            self.queues.lane_of(ticket).blocked = decision
            if decision.reason in _BANDWIDTH_REASONS:
                self._bandwidth_waits.add(model)
            return
        self._news.update(self.queues.models())

    def _take(self, entry: Waiting, decision: Decision, view: TenantView, now_s: float, out: list[Decision]) -> None:
        """Carry a final decision out: the ticket leaves its queue, an admitted one enters the ledger."""
        ticket = entry.ticket
        self._leave(entry)
        out.append(self.explained.decided(ticket, decision, now_s))
        if decision.outcome not in (Outcome.ADMIT, Outcome.ADMIT_DEMOTED):
            return
        for model, stuck in self._stuck.items():
            if model == ticket.model or model in self._bandwidth_waits:
                stuck.overtaken += 1
        self.ledger.reserve(
            Reservation(
                ticket.chat,
                ticket.tenant,
                ticket.session,
                ticket.model,
                decision.kv_bits,
                decision.reserve_bytes,
                now_s,
                ticket.tokens_max,
                ticket.demotable,
                ticket.kv_bits_floor,
            )
        )
        completion = self.limits.completion_estimate(ticket)
        cached = ticket.prompt_tokens - view.prompt_tokens_new
        cost = self.counters.cost(ticket.prompt_tokens, cached, completion)
        prefill_s = self.device.prefill_s(ticket.model, view.prompt_tokens_new)
        tokens = ticket.prompt_tokens + completion
        self._admitted[ticket.chat] = Admitted(ticket, cost, tokens, prefill_s)
        self.device.add(ticket.model, decision.reserve_bytes)
        self.device.prefill(prefill_s, now_s)
        self.counters.charge(ticket.tenant, cost, now_s)
        self.limits.take(ticket.tenant, decision.reserve_bytes, tokens)
        self.sessions.begin(ticket.tenant, ticket.session)

    def _decide(self, ticket: Ticket, view: TenantView, now_s: float) -> Decision:
        account = self.ledger.accounts.get(ticket.model)
        return decide(ticket, account, self.device, view, settings=self.settings, now_s=now_s)

    def _view(self, ticket: Ticket, now_s: float) -> TenantView:
        """What the decision needs to know of the tenant."""
        view = TenantView(prompt_tokens_new=ticket.prompt_tokens)
        account = self.ledger.accounts.get(ticket.model)
        if account is None:
            return view
        tenant, share = ticket.tenant, self.settings.share(ticket.tenant)
        part = self._present[ticket.model].share(tenant, now_s)
        view.over_share = part < 1.0 and account.by_tenant.get(tenant, 0) > part * account.total_bytes
        lease = self.sessions.held(tenant, ticket.session, now_s)
        if lease is not None and account.cached_bytes > 0:
            view.prompt_tokens_new = max(1, ticket.prompt_tokens - lease.tokens)
        if share.limited:
            bits = min(account.facts.kv_bytes_per_token)
            need = reserve_bytes(account.facts, ticket.tokens_max, bits, self.settings.page_tokens)
            tokens = ticket.prompt_tokens + self.limits.completion_estimate(ticket)
            at = self.limits.blocked_s(tenant, share, need, tokens, now_s)
            if at is not None:
                view.limit, view.limit_wait_s = at
        return view

    # Queues

    def _make_room(self, ticket: Ticket, turn: bool, now_s: float) -> bool:
        """Keep the queues within bounds: a turn, or a tenant with a shorter queue, displaces a new session."""
        settings, tenant = self.settings, ticket.tenant
        mine = self.queues.per_tenant.get(tenant, 0)
        crowded: str | None = None
        if mine >= settings.waiting_per_tenant_max:
            crowded = tenant
        elif len(self.queues) >= settings.waiting_max:
            crowded = self.queues.longest()
        if crowded is None:
            return True
        crowd = self.queues.per_tenant.get(crowded, 0)
        displaced = self.queues.youngest_new(crowded) if turn or (crowded != tenant and crowd > mine + 1) else None
        if displaced is not None:
            self._leave(displaced)
            self._refuse(displaced.ticket, Reason.QUEUE_FULL, now_s, self._out)
            return True
        self._refuse(ticket, Reason.QUEUE_FULL, now_s, self._out)
        return False

    def _leave(self, entry: Waiting) -> None:
        """Out of the queues, and out of whatever points at it."""
        ticket = entry.ticket
        self.queues.remove(ticket.chat)
        if self._stuck.get(ticket.model) is entry:
            del self._stuck[ticket.model]
            self._news.add(ticket.model)
            if entry.overtaken >= self.settings.overtakes_max:
                self._news.update(self.queues.models())
        order = self._orders[ticket.model]
        if self.queues.lane(ticket.tenant, ticket.model) is None:
            order.discard(ticket.tenant)
            self._parked.get(ticket.tenant, set()).discard(ticket.model)
        elif ticket.model not in self._parked.get(ticket.tenant, ()):
            order.add(ticket.tenant)
        if ticket.tenant not in self.queues.per_tenant:
            self.counters.leave(ticket.tenant)

    def _refuse(self, ticket: Ticket, reason: Reason, now_s: float, out: list[Decision]) -> None:
        """Overflow where the bot allows it, else reject, with a time to come back."""
        outcome = Outcome.OVERFLOW if ticket.overflow and reason is not Reason.DEADLINE else Outcome.REJECT
        wait_s = self._lane_wait_s(ticket.tenant, ticket.model, self._lane_length(ticket))
        low, high = _RETRY_AFTER_S
        retry_s = low if wait_s is None else min(high, max(low, wait_s))
        numbers = {"waiting": len(self.queues), "waiting_tenant": self.queues.per_tenant.get(ticket.tenant, 0)}
        decision = Decision(
            ticket.chat,
            outcome,
            reason,
            ticket.kv_bits,
            retry_after_s=retry_s,
            expected_wait_s=wait_s,
            numbers=numbers,
        )
        out.append(self.explained.decided(ticket, decision, now_s))

    def _lane_length(self, ticket: Ticket) -> int:
        lane = self.queues.lane(ticket.tenant, ticket.model)
        return len(lane.waiting) if lane else 0

    def _lane_wait_s(self, tenant: str, model: str, ahead: int) -> float | None:
        account = self.ledger.accounts.get(model)
        weight = self.settings.share(tenant).weight
        others = self.queues.per_model.get(model, {})
        weights = weight + sum(self.settings.share(name).weight for name in others if name != tenant)
        return self.drain.wait_s(model, len(account.reservations) if account else 0, ahead, weight / weights)

    def expected_wait_s(self, entry: Waiting) -> float | None:
        """Seconds until a waiting ticket is served, as far as that can be told."""
        ticket = entry.ticket
        return self._lane_wait_s(ticket.tenant, ticket.model, self.queues.lane_of(ticket).ahead(entry))

    def _refuse_early(self, now_s: float, out: list[Decision]) -> None:
        """New sessions that just came and would wait past their deadline are told so at once."""
        fresh, self._fresh = self._fresh, []
        for chat in fresh:
            entry = self.queues.entries.get(chat)
            if entry is None or entry.turn or entry.ticket.overflow:
                continue
            wait_s = self.expected_wait_s(entry)
            if wait_s is not None and now_s + wait_s > entry.ticket.deadline_s:
                self._leave(entry)
                self._refuse(entry.ticket, Reason.DEADLINE, now_s, out)

    def _due(self, now_s: float, out: list[Decision]) -> None:
        """Deadlines that passed, tickets that waited long enough to overflow, limits that ended."""
        self._timers.prune(self._counts, len(self.queues))
        for what, name in self._timers.due(now_s):
            entry = self.queues.entries.get(name)
            if what == "pace":
                self._paced.discard(name)
                self._news.add(name)
            elif what == "unpark":
                self._unpark(name)
            elif entry is not None and what == "deadline":
                self._leave(entry)
                self._refuse(entry.ticket, Reason.DEADLINE, now_s, out)
            elif entry is not None and what == "overflow":
                self._overflow(entry, now_s, out)

    def _overflow(self, entry: Waiting, now_s: float, out: list[Decision]) -> None:
        """It waited `overflow_after_s`. A tenant at its own limit is not helped out; it is asked again later."""
        decision = self._decide(entry.ticket, self._view(entry.ticket, now_s), now_s)
        if decision.reason is Reason.TENANT_LIMIT:
            self._timers.at(now_s + 1.0, "overflow", entry.ticket.chat)
        else:
            self._leave(entry)
            reason = Reason.KV_MEMORY if decision.reason is Reason.ROOM else decision.reason
            self._refuse(entry.ticket, reason, now_s, out)

    def _counts(self, name: str) -> bool:
        return name in self.queues.entries or name in self._parked or name in self._paced

    # Ledger, limits, counters

    def _release(self, chat: str, now_s: float, tokens_over: float) -> Reservation | None:
        held = self.ledger.release(chat, now_s)
        if held is None:
            return None
        self.device.remove(held.model, held.reserved_bytes)
        self.limits.give(held.tenant, held.reserved_bytes, tokens_over)
        self._unpark(held.tenant)
        self._news.add(held.model)
        self._news |= self._bandwidth_waits
        return held

    def _give_back(self, tenant: str, cost: float) -> None:
        self.counters.charge(tenant, -cost)
        if cost > 0:
            for order in self._orders.values():
                order.touch(tenant)

    def _park(self, lane: Lane, wait_s: float, now_s: float) -> None:
        """A tenant at a limit is out of the order until a chat of its own ends, or the minute goes on."""
        self._parked.setdefault(lane.tenant, set()).add(lane.model)
        if wait_s != float("inf"):
            self._timers.at(now_s + wait_s, "unpark", lane.tenant)

    def _unpark(self, tenant: str) -> None:
        for model in self._parked.pop(tenant, ()):
            if self.queues.lane(tenant, model) is not None:
                self._orders[model].add(tenant)
                self._news.add(model)
