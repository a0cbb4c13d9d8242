"""The dispatch cycle: whose ticket goes next, and which may overtake a blocked head.

Flows (one per tenant and model) go in the fairness policy's order, across models, too: reading prompts is the device's
work, and a model that always went first would take all of it. So a model's turn ends where its next tenant has had more
service than the next tenant of another pending model.

A head that does not fit is skipped (`lookahead_max` per model), so that it holds up neither other tenants nor its own
tenant's other models. It is remembered as the model's blocked head, and every chat that goes before it is counted. Once
it was overtaken `overtakes_max` times the model is kept free for it (every model of its device, where it waits for
bandwidth) until it goes in, gives up, or turns out to wait for something else. A tenant above its share never has a
blocked head: it gets service already.

Only pending models are looked at: those where something changed. A release does not count while it leaves less memory
than any of the skipped heads needs, so a full engine with a long queue costs next to nothing.
"""

from __future__ import annotations

from scheduler.accounting import Accounting
from scheduler.admission import AdmissionContext, closed_to_all, headroom_bytes
from scheduler.decision_log import DecisionLog
from scheduler.fairness import Key
from scheduler.ledger import Account
from scheduler.wait_queue import Waiting, WaitQueue
from services.contracts.decisions import Decision, Outcome, Reason, Reservation

_BANDWIDTH_REASONS = (Reason.BANDWIDTH, Reason.FIRST_TOKEN)
_WAIT, _KV_MEMORY, _FIRST_TOKEN = Outcome.WAIT, Reason.KV_MEMORY, Reason.FIRST_TOKEN
_TENANT_LIMIT = Reason.TENANT_LIMIT
_ADMITTED = (Outcome.ADMIT, Outcome.ADMIT_DEMOTED)
_BLOCKING_REASONS = (Reason.KV_MEMORY, Reason.CHATS_MAX, *_BANDWIDTH_REASONS)
_CLOSED_REASONS = (
    Reason.MODEL_DOWN,
    Reason.MODEL_ASLEEP,
    Reason.TELEMETRY_STALE,
    Reason.CHATS_MAX,
    Reason.FIRST_TOKEN,
)
_ENDLESS = 2**63
_NOBODY: Key = (float("-inf"), 0.0, "")
_START = (0, _ENDLESS)


class DispatchCycle:
    """Admits tickets until nothing more fits."""

    def __init__(self, accounting: Accounting, wait_queue: WaitQueue, decision_log: DecisionLog) -> None:
        self._pending_models: dict[
            str, None
        ] = {}  # models to look at, in order: a set's order would differ from run to run
        self.blocked_heads: dict[str, Waiting] = {}  # by model
        self._holding: set[str] = set()  # models whose blocked head was overtaken as often as may be
        self._accounting = accounting
        self._wait_queue = wait_queue
        self._decision_log = decision_log
        self._reviewed: dict[str, bool] = {}  # models where the next pass looks at every ticket in front
        self._resume_at: dict[str, tuple[int, int]] = {}  # of passes that gave their turn up: place in front, `short`
        self._retry_bytes: dict[str, int] = {}  # by model: a release that leaves less than this changes nothing
        self._bandwidth_bound: dict[str, None] = {}  # models where something waits for bandwidth
        self._bandwidth_bound_now: set[str] = set()  # those of which this pass has met it
        self._prefill_bound: dict[str, None] = {}  # models with a timer for the end of the prefill backlog

    @property
    def pending(self) -> bool:
        """Whether a step would look at anything."""
        return bool(self._pending_models)

    def mark_pending(self, *models: str) -> None:
        """Something changed for these models."""
        for model in models:
            self._pending_models[model] = None

    def arrived(self, entry: Waiting) -> None:
        """A ticket came. It matters only as its flow's head."""
        entry.retry_bytes = entry.least_bytes
        if entry.flow.waiting[0] is entry:
            self._pending_models[entry.ticket.model] = None

    def leave(self, entry: Waiting) -> None:
        """A ticket leaves the queue, for whatever reason."""
        self._pending_models[entry.ticket.model] = None
        self._leave(entry)

    def _leave(self, entry: Waiting) -> None:
        model = entry.ticket.model
        self._wait_queue.leave(entry)
        if self.blocked_heads.get(model) is entry:
            del self.blocked_heads[model]
            if model in self._holding:
                self._holding.discard(model)
                self.review()

    def released(self, held: Reservation, now_s: float) -> None:
        """A chat ended, or shrank."""
        model, tenant = held.model, held.tenant
        for throttled in self._wait_queue.resume(tenant):
            self._pending_models[throttled] = None
        self._wait_queue.orders[model].moved(tenant)
        account = self._accounting.ledger.accounts.get(model)
        flow = self._wait_queue.queues.flow(tenant, model)
        if flow is not None and account is not None and not self._accounting.over_share(tenant, account, now_s):
            first = flow.waiting[0]
            first.retry_bytes = min(first.retry_bytes, first.least_bytes)  # headroom is kept from it no more
            self._retry_bytes[model] = min(self._retry_bytes.get(model, 0), first.retry_bytes)
        if account is None or account.available_bytes >= self._retry_bytes.get(model, 0):
            self._pending_models[model] = None
        if self._bandwidth_bound:
            self.mark_pending(*self._bandwidth_bound)

    def paced(self, model: str) -> None:
        """The prefill backlog is short enough again, for every model that waits for it."""
        self.mark_pending(
            *self._prefill_bound
        )  # in the same step as `model`, whose timer may be the earlier by a rounding
        self._prefill_bound.pop(model, None)

    def review(self) -> None:
        """Look at everything that waits, closely."""
        self._resume_at.clear()
        for model in self._wait_queue.queues.models():
            self._reviewed[model] = True
            self._wait_queue.orders[model].refresh()
            self.mark_pending(model)

    def run(self, now_s: float, out: list[Decision]) -> None:
        """Until no model is pending."""
        while self._pending_models:
            model = (
                min(self._pending_models, key=self._turn)
                if len(self._pending_models) > 1
                else next(iter(self._pending_models))
            )
            del self._pending_models[model]
            holder = self.holder(model) if self._holding else None
            if holder is None:
                self._dispatch(model, now_s, out)
                continue
            self._resume_at.pop(model, None)
            if holder.ticket.model == model:
                self._serve_holder(holder, now_s, out)

    def _turn(self, model: str) -> Key:
        """Whose turn it is at the model, least first."""
        front, place = self._wait_queue.orders[model].front, self._resume_at.get(model, _START)[0]
        return self._accounting.counters.keys[front[place][2]] if place < len(front) else _NOBODY

    def _yields(self, tenant: str) -> bool:
        """Whether another pending model has a tenant that had less."""
        key = self._accounting.counters.keys[tenant]
        return any(self._turn(model) < key for model in self._pending_models)

    def holder(self, model: str) -> Waiting | None:
        """The blocked head that the model is kept free for, or None."""
        for other, entry in self.blocked_heads.items():
            if other in self._holding and (other == model or self._slows(model, other)):
                return entry
        return None

    def _slows(self, model: str, other: str) -> bool:
        """Whether a ticket of the model `other` waits for bandwidth that chats of `model` take."""
        if other not in self._bandwidth_bound:
            return False
        accounts = self._accounting.ledger.accounts
        account = accounts.get(model)
        return account is not None and account.facts.device == accounts[other].facts.device

    def configured(self) -> None:
        """Other settings."""
        most = self._accounting.settings.overtakes_max
        self._holding = {model for model, entry in self.blocked_heads.items() if entry.overtaken >= most}

    def _dispatch(self, model: str, now_s: float, out: list[Decision]) -> None:
        """One pass over the tenants in front, least service first."""
        accounting = self._accounting
        start, retry_bytes = self._resume_at.pop(model, _START)
        if not start:
            self._bandwidth_bound_now.discard(model)
        self._retry_bytes[model] = 0
        account = accounting.ledger.accounts.get(model)
        if account is None:
            return
        front, flows = self._wait_queue.orders[model].front, self._wait_queue.queues.per_model.get(model, {})
        everyone = self._reviewed.pop(model, False)
        passed, looked = start, False
        while passed < len(front):
            enough = _ENDLESS if everyone else account.available_bytes
            for passed in range(passed, len(front)):  # noqa: B020  (goes on from where it was)
                entry = flows[front[passed][2]].waiting[0]
                needed = entry.retry_bytes
                if needed <= enough or not (passed or entry.looked_at):
                    break
                if needed < retry_bytes:  # noqa: PLR1730  (8 times a decision: `min` would be 1% of it)
                    retry_bytes = needed
            else:
                break
            if (looked or passed > start) and self._pending_models and self._yields(front[passed][2]):
                self._go_on_later(model, passed, retry_bytes, everyone)
                return
            looked = True
            context = accounting.context(entry, account, now_s)
            decision = accounting.decide_now(entry, account, context, now_s)
            if decision.outcome is not _WAIT:
                self._carry_out(entry, decision, context, now_s, out)
                if self._holding and self.holder(model) is not None:
                    return
                continue
            entry.flow.blocked = decision
            if self._closed(decision, account, now_s):
                return
            if decision.reason is _TENANT_LIMIT:
                self._wait_queue.throttle(entry.flow)
                continue
            self._skip(entry, decision, context, account, now_s)
            retry_bytes = min(retry_bytes, entry.retry_bytes)
            passed += 1
        self._retry_bytes[model] = retry_bytes
        self._settle_bandwidth_bound(model)

    def _settle_bandwidth_bound(self, model: str) -> None:
        """A whole pass is over: does anything here wait for bandwidth still?"""
        if model not in self._bandwidth_bound_now:
            self._bandwidth_bound.pop(model, None)

    def _go_on_later(self, model: str, place: int, retry_bytes: int, everyone: bool) -> None:
        """Another model's tenant goes first."""
        self._pending_models[model] = None
        self._resume_at[model] = place, retry_bytes
        if everyone:
            self._reviewed[model] = True

    def _skip(
        self, entry: Waiting, decision: Decision, context: AdmissionContext, account: Account, now_s: float
    ) -> None:
        """Note why a flow's head waits."""
        model = entry.ticket.model
        if not (context.over_share or context.leaves_slots):
            self.blocked_heads.setdefault(model, entry)
        if decision.reason in _BANDWIDTH_REASONS:
            self._bandwidth_bound[model] = None
            self._bandwidth_bound_now.add(model)
        if decision.reason is _FIRST_TOKEN:
            self._retry_after_prefill(account, 0.0, now_s)
        entry.looked_at, entry.retry_bytes = True, 0
        if decision.reason is _KV_MEMORY:
            least = entry.least_bytes
            headroom = headroom_bytes(account, context, self._accounting.settings)
            entry.retry_bytes = least + (headroom if headroom >= least else 0)

    def _closed(self, decision: Decision, account: Account, now_s: float) -> bool:
        """Whether what made one ticket wait makes all of them wait."""
        if decision.reason not in _CLOSED_REASONS:
            return False
        settings = self._accounting.settings
        closed = closed_to_all(account, self._accounting.devices[account.facts.device], now_s)
        if closed is not None and closed[0] is Reason.FIRST_TOKEN:
            self._retry_after_prefill(account, settings.prefill_ahead_s_max, now_s)
        return closed is not None

    def _retry_after_prefill(self, account: Account, ahead_s: float, now_s: float) -> None:
        """Look at the model when its device has no more than `ahead_s` of prompts left to read."""
        model = account.facts.model
        if model not in self._prefill_bound:
            self._prefill_bound[model] = None
            backlog_s = self._accounting.devices[account.facts.device].prefill_backlog_s(now_s)
            self._wait_queue.timers.at(now_s + backlog_s - ahead_s, "pace", model)

    def _serve_holder(self, entry: Waiting, now_s: float, out: list[Decision]) -> None:
        """Everyone else waits until the holder fits, or turns out to wait for something else."""
        model = entry.ticket.model
        account = self._accounting.ledger.accounts[model]
        context = self._accounting.context(entry, account, now_s)
        decision = self._accounting.decide_now(entry, account, context, now_s)
        if decision.outcome is not Outcome.WAIT:
            self._carry_out(entry, decision, context, now_s, out)
            self.review()
        elif context.over_share or context.leaves_slots or decision.reason not in _BLOCKING_REASONS:
            entry.overtaken = 0
            del self.blocked_heads[model]
            self._holding.discard(model)
            self.review()
        elif decision.reason in _BANDWIDTH_REASONS:
            self._bandwidth_bound[model] = None

    def _carry_out(
        self, entry: Waiting, decision: Decision, context: AdmissionContext, now_s: float, out: list[Decision]
    ) -> None:
        """Carry a final decision out: the ticket leaves the queue, an admitted one is accounted."""
        flow = entry.flow
        model = flow.model
        self._leave(entry)
        self._pending_models.pop(model, None)
        out.append(self._decision_log.record(entry.ticket, decision, now_s))
        if decision.outcome not in _ADMITTED:
            return
        for other, blocked_head in self.blocked_heads.items():
            if other == model or (self._bandwidth_bound and self._slows(model, other)):
                blocked_head.overtaken += 1
                if blocked_head.overtaken >= self._accounting.settings.overtakes_max:
                    self._holding.add(other)
        self._accounting.admit(entry, self._accounting.ledger.accounts[model], decision, context, now_s)
        self._wait_queue.orders[model].moved(flow.tenant)
        if flow.waiting:
            self._expect(flow.waiting[0], now_s)

    def _expect(self, entry: Waiting, now_s: float) -> None:
        """A ticket becomes its flow's head: from how much free memory on it is worth a look."""
        account = self._accounting.ledger.accounts[entry.ticket.model]
        headroom = int(self._accounting.settings.headroom * account.facts.kv_budget_bytes)
        least = entry.least_bytes
        if headroom >= least > 0 and self._accounting.over_share(entry.ticket.tenant, account, now_s):
            entry.retry_bytes = max(entry.retry_bytes, least + headroom)
