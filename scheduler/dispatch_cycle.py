"""Filling the engines: who is next, and who may go past a ticket that finds no room.

Tenants go in order of least service, across models, too: reading prompts is the device's work, and a model that was
always filled first would take all of it. So a model's turn ends where the next of its tenants has had more than the one
that another model with news has come to.

A first ticket that finds no room is looked past (`lookahead_max` per model), so that it holds up neither other tenants
nor its own tenant's other models. It is remembered as the model's *stuck* ticket, and every chat that goes before it is
counted. Once it was overtaken `overtakes_max` times the model is kept free for it (every model of its device, where it
waits for bandwidth) until it goes in, gives up, or turns out to wait for something else. A tenant above its share is
never stuck: it gets service already.

Only models with news are looked at. A release is no news while it leaves less room than any of the tickets
that were looked at needs, so a full engine with a long queue costs next to nothing.
"""

from __future__ import annotations

from scheduler.accounting import Accounting
from scheduler.admission import Ask, closed_to_all, headroom_bytes
from scheduler.explain import Explain
from scheduler.fairness_order import Key
from scheduler.flow_queues import Waiting
from scheduler.ledger import Account
from scheduler.wait_queue import WaitQueue
from services.contracts.decisions import Decision, Outcome, Reason, Reservation

_BANDWIDTH_REASONS = (Reason.BANDWIDTH, Reason.FIRST_TOKEN)
_WAIT, _KV_MEMORY, _FIRST_TOKEN = Outcome.WAIT, Reason.KV_MEMORY, Reason.FIRST_TOKEN
_TENANT_LIMIT = Reason.TENANT_LIMIT
_ADMITTED = (Outcome.ADMIT, Outcome.ADMIT_DEMOTED)
_STUCK_REASONS = (Reason.KV_MEMORY, Reason.CHATS_MAX, *_BANDWIDTH_REASONS)
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
    """Lets tickets in until nothing more moves."""

    def __init__(self, books: Accounting, room: WaitQueue, explained: Explain) -> None:
        self._news: dict[str, None] = {}  # models to look at, in order: a set's order would differ from run to run
        self.stuck: dict[str, Waiting] = {}  # by model
        self._holding: set[str] = set()  # models whose stuck ticket was overtaken as often as may be
        self._books = books
        self._room = room
        self._explained = explained
        self._reviewed: dict[str, bool] = {}  # models where the next pass looks at every ticket in front
        self._places: dict[str, tuple[int, int]] = {}  # of passes that gave their turn up: place in front, `short`
        self._short: dict[str, int] = {}  # by model: a release that leaves less room than this is no news
        self._for_bandwidth: dict[str, None] = {}  # models where something waits for bandwidth
        self._narrow: set[str] = set()  # those of which this pass has met it
        self._paced: dict[str, None] = {}  # models with a timer for the end of the prefill backlog

    @property
    def news(self) -> bool:
        """Whether a step would look at anything."""
        return bool(self._news)

    def look_at(self, *models: str) -> None:
        """Something changed for these models."""
        for model in models:
            self._news[model] = None

    def arrived(self, entry: Waiting) -> None:
        """A ticket came. News only if it is its lane's first."""
        entry.short_bytes = entry.least_bytes
        if entry.lane.waiting[0] is entry:
            self._news[entry.ticket.model] = None

    def leave(self, entry: Waiting) -> None:
        """A ticket leaves the room, for whatever reason."""
        self._news[entry.ticket.model] = None
        self._leave(entry)

    def _leave(self, entry: Waiting) -> None:
        model = entry.ticket.model
        self._room.leave(entry)
        if self.stuck.get(model) is entry:
            del self.stuck[model]
            if model in self._holding:
                self._holding.discard(model)
                self.review()

    def released(self, held: Reservation | None, now_s: float) -> None:
        """A chat ended, or shrank."""
        if held is None:
            return
        model, tenant = held.model, held.tenant
        for parked in self._room.unpark(tenant):
            self._news[parked] = None
        self._room.orders[model].moved(tenant)
        account = self._books.ledger.accounts.get(model)
        lane = self._room.queues.lane(tenant, model)
        if lane is not None and account is not None and not self._books.over_share(tenant, account, now_s):
            first = lane.waiting[0]
            first.short_bytes = min(first.short_bytes, first.least_bytes)  # headroom is kept from it no more
            self._short[model] = min(self._short.get(model, 0), first.short_bytes)
        if account is None or account.available_bytes >= self._short.get(model, 0):
            self._news[model] = None
        if self._for_bandwidth:
            self.look_at(*self._for_bandwidth)

    def paced(self, model: str) -> None:
        """The prefill backlog is short enough again, for every model that waits for it."""
        self.look_at(*self._paced)  # in the same step as `model`, whose timer may be the earlier by a rounding
        self._paced.pop(model, None)

    def review(self) -> None:
        """Look at everything that waits, closely."""
        self._places.clear()
        for model in self._room.queues.models():
            self._reviewed[model] = True
            self._room.orders[model].refresh()
            self.look_at(model)

    def run(self, now_s: float, out: list[Decision]) -> None:
        """Until there is no news."""
        while self._news:
            model = min(self._news, key=self._turn) if len(self._news) > 1 else next(iter(self._news))
            del self._news[model]
            holder = self.holder(model) if self._holding else None
            if holder is None:
                self._fill(model, now_s, out)
                continue
            self._places.pop(model, None)
            if holder.ticket.model == model:
                self._serve_holder(holder, now_s, out)

    def _turn(self, model: str) -> Key:
        """Whose turn it is at the model, least first."""
        front, place = self._room.orders[model].front, self._places.get(model, _START)[0]
        return self._books.counters.keys[front[place][2]] if place < len(front) else _NOBODY

    def _yields(self, tenant: str) -> bool:
        """Whether another model with news has a tenant that had less."""
        key = self._books.counters.keys[tenant]
        return any(self._turn(model) < key for model in self._news)

    def holder(self, model: str) -> Waiting | None:
        """The stuck ticket that the model is kept free for, or None."""
        for other, entry in self.stuck.items():
            if other in self._holding and (other == model or self._slows(model, other)):
                return entry
        return None

    def _slows(self, model: str, other: str) -> bool:
        """Whether a ticket of the model `other` waits for bandwidth that chats of `model` take."""
        if other not in self._for_bandwidth:
            return False
        accounts = self._books.ledger.accounts
        account = accounts.get(model)
        return account is not None and account.facts.device == accounts[other].facts.device

    def configured(self) -> None:
        """Other settings."""
        most = self._books.settings.overtakes_max
        self._holding = {model for model, entry in self.stuck.items() if entry.overtaken >= most}

    def _fill(self, model: str, now_s: float, out: list[Decision]) -> None:
        """One pass over the tenants in front, least service first."""
        books = self._books
        start, short = self._places.pop(model, _START)
        if not start:
            self._narrow.discard(model)
        self._short[model] = 0
        account = books.ledger.accounts.get(model)
        if account is None:
            return
        front, lanes = self._room.orders[model].front, self._room.queues.per_model.get(model, {})
        everyone = self._reviewed.pop(model, False)
        passed, looked = start, False
        while passed < len(front):
            enough = _ENDLESS if everyone else account.available_bytes
            for passed in range(passed, len(front)):  # noqa: B020  (goes on from where it was)
                entry = lanes[front[passed][2]].waiting[0]
                needed = entry.short_bytes
                if needed <= enough or not (passed or entry.looked_at):
                    break
                if needed < short:  # noqa: PLR1730  (8 times a decision: `min` would be 1% of it)
                    short = needed
            else:
                break
            if (looked or passed > start) and self._news and self._yields(front[passed][2]):
                self._go_on_later(model, passed, short, everyone)
                return
            looked = True
            ask = books.ask(entry, account, now_s)
            decision = books.decide_now(entry, account, ask, now_s)
            if decision.outcome is not _WAIT:
                self._take(entry, decision, ask, now_s, out)
                if self._holding and self.holder(model) is not None:
                    return
                continue
            entry.lane.blocked = decision
            if self._closed(decision, account, now_s):
                return
            if decision.reason is _TENANT_LIMIT:
                self._room.park(entry.lane, now_s + ask.limit_wait_s)
                continue
            self._look_past(entry, decision, ask, account, now_s)
            short = min(short, entry.short_bytes)
            passed += 1
        self._short[model] = short
        self._settle_narrow(model)

    def _settle_narrow(self, model: str) -> None:
        """A whole pass is over: does anything here wait for bandwidth still?"""
        if model not in self._narrow:
            self._for_bandwidth.pop(model, None)

    def _go_on_later(self, model: str, place: int, short: int, everyone: bool) -> None:
        """Another model's tenant goes first."""
        self._news[model] = None
        self._places[model] = place, short
        if everyone:
            self._reviewed[model] = True

    def _look_past(self, entry: Waiting, decision: Decision, ask: Ask, account: Account, now_s: float) -> None:
        """Note why a lane's first ticket waits."""
        model = entry.ticket.model
        if not ask.over_share:
            self.stuck.setdefault(model, entry)
        if decision.reason in _BANDWIDTH_REASONS:
            self._for_bandwidth[model] = None
            self._narrow.add(model)
        if decision.reason is _FIRST_TOKEN:
            self._look_again(account, 0.0, now_s)
        entry.looked_at, entry.short_bytes = True, 0
        if decision.reason is _KV_MEMORY:
            least = entry.least_bytes
            headroom = headroom_bytes(account, ask, self._books.settings)
            entry.short_bytes = least + (headroom if headroom >= least else 0)

    def _closed(self, decision: Decision, account: Account, now_s: float) -> bool:
        """Whether what made one ticket wait makes all of them wait."""
        if decision.reason not in _CLOSED_REASONS:
            return False
        settings = self._books.settings
        closed = closed_to_all(account, self._books.devices[account.facts.device], now_s)
        if closed is not None and closed[0] is Reason.FIRST_TOKEN:
            self._look_again(account, settings.prefill_ahead_s_max, now_s)
        return closed is not None

    def _look_again(self, account: Account, ahead_s: float, now_s: float) -> None:
        """Look at the model when its device has no more than `ahead_s` of prompts left to read."""
        model = account.facts.model
        if model not in self._paced:
            self._paced[model] = None
            backlog_s = self._books.devices[account.facts.device].prefill_backlog_s(now_s)
            self._room.timers.at(now_s + backlog_s - ahead_s, "pace", model)

    def _serve_holder(self, entry: Waiting, now_s: float, out: list[Decision]) -> None:
        """Everyone else waits until the holder has room, or turns out to wait for something else."""
        model = entry.ticket.model
        account = self._books.ledger.accounts[model]
        ask = self._books.ask(entry, account, now_s)
        decision = self._books.decide_now(entry, account, ask, now_s)
        if decision.outcome is not Outcome.WAIT:
            self._take(entry, decision, ask, now_s, out)
            self.review()
        elif ask.over_share or decision.reason not in _STUCK_REASONS:
            entry.overtaken = 0
            del self.stuck[model]
            self._holding.discard(model)
            self.review()
        elif decision.reason in _BANDWIDTH_REASONS:
            self._for_bandwidth[model] = None

    def _take(self, entry: Waiting, decision: Decision, ask: Ask, now_s: float, out: list[Decision]) -> None:
        """Carry a final decision out: the ticket leaves the room, an admitted one enters the books."""
        lane = entry.lane
        model = lane.model
        self._leave(entry)
        self._news.pop(model, None)
        out.append(self._explained.decided(entry.ticket, decision, now_s))
        if decision.outcome not in _ADMITTED:
            return
        for other, stuck in self.stuck.items():
            if other == model or self._slows(model, other):
                stuck.overtaken += 1
                if stuck.overtaken >= self._books.settings.overtakes_max:
                    self._holding.add(other)
        self._books.admit(entry, self._books.ledger.accounts[model], decision, ask, now_s)
        self._room.orders[model].moved(lane.tenant)
        if lane.waiting:
            self._expect(lane.waiting[0], now_s)

    def _expect(self, entry: Waiting, now_s: float) -> None:
        """A ticket comes first in its lane: with how much to be had it is worth a look."""
        account = self._books.ledger.accounts[entry.ticket.model]
        headroom = int(self._books.settings.headroom * account.facts.kv_budget_bytes)
        least = entry.least_bytes
        if headroom >= least > 0 and self._books.over_share(entry.ticket.tenant, account, now_s):
            entry.short_bytes = max(entry.short_bytes, least + headroom)
