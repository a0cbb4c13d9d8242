"""The scheduler: what waits, who is next, what is decided.

    step():          timers that are due -> a dispatch cycle -> refuse what would wait too long
    dispatch cycle:  the flow with the least service, over all models -> decide for its head -> reserve, or skip it

Single-threaded and pure: no input or output, no clock of its own. Every method that needs the time is given it
(`now_s`, Unix seconds). The caller carries decisions out and reports what came of them: `settle` when a chat ended,
`lost` when nobody reported how, `undo` when a dispatch was refused, `unpaid` when an overflow was, `demoted` when a
live session was lowered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from scheduler import demotion
from scheduler.accounting import Accounting
from scheduler.admission import never, options
from scheduler.decision_log import DecisionLog
from scheduler.demotion import Demotion
from scheduler.dispatch_cycle import DispatchCycle
from scheduler.overload import Overload
from scheduler.settings import SchedulerSettings
from scheduler.snapshot import take
from scheduler.wait_queue import Waiting, WaitQueue
from services.contracts.chats import ChatUsage, KvBits, Ticket
from services.contracts.decisions import Decision, Reason, Reservation
from services.contracts.devices import DeviceReport
from services.contracts.engines import EngineFacts, EngineReport, EngineState, Learned
from services.contracts.explanation import Explanation
from services.contracts.snapshot import Snapshot


class Scheduler:
    """Decides which chats run. See the module's docstring for the way of one step."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.accounting = Accounting(settings)
        self.ledger = self.accounting.ledger
        self.wait_queue = WaitQueue(self.accounting.counters, settings)
        self.decision_log = DecisionLog()
        self._dispatch_cycle = DispatchCycle(self.accounting, self.wait_queue, self.decision_log)
        self._overload = Overload(self.accounting, self.wait_queue, self.decision_log)
        self._out: list[Decision] = []
        self._arrived: list[str] = []
        self._recalled: dict[str, Learned] = {}  # of engines that are not up yet
        self._given_up: frozenset[str] = frozenset()
        self._review_s = 0.0

    def configure(self, settings: SchedulerSettings) -> None:
        """Take over other shares, targets and bounds, live."""
        if settings == self.settings:
            return
        self.settings = settings
        self.accounting.configure(settings)
        self.wait_queue.configure(settings)
        self._dispatch_cycle.configured()
        for entry in self.wait_queue.queues.entries.values():
            entry.facts = None  # what it needs is worked out anew
        self._review_s = 0.0

    def engine_started(self, facts: EngineFacts, now_s: float) -> None:
        """An engine answers for the first time, or again with other flags."""
        self.accounting.engine_started(facts, now_s)
        self.accounting.prefix_cache.forget(facts.model)
        if (learned := self._recalled.pop(facts.model, None)) is not None:
            self.accounting.devices[facts.device].recall(learned)
        self._dispatch_cycle.review()

    def engine_reported(self, report: EngineReport) -> None:
        """Load of one engine. Unknown engines' are dropped (facts come first), and so are old or repeated ones."""
        account = self.accounting.ledger.accounts.get(report.model)
        if account is None or (account.report is not None and report.at_s <= account.report.at_s):
            return
        if report.up_since_s != account.up_since_s:
            self.accounting.prefix_cache.forget(report.model)
        account.reported(report, self.settings.drift_bytes_max)
        self.accounting.devices[account.facts.device].reported(report)
        self._dispatch_cycle.mark_pending(report.model)

    def device_reported(self, report: DeviceReport) -> None:
        """Memory of one device, from NVML. Never called where there is none. An old or repeated one changes nothing."""
        before = self.ledger.device_reports.get(report.device)
        if before is not None and report.at_s <= before.at_s:
            return
        self.ledger.device_reported(report, self.settings.drift_bytes_max)

    def learned(self) -> list[Learned]:
        """What watching the engines has taught, for `recall`. Nothing of engines that nothing is known of."""
        found = (
            replace(
                self.accounting.prefix_cache.learned(model),
                correction=load.correction,
                prefill_tokens_per_s=load.prefill_tokens_per_s,
                up_since_s=self.ledger.accounts[model].up_since_s,
            )
            for device in self.accounting.devices.values()
            for model, load in device.loads.items()
        )
        return [one for one in found if one != Learned(one.model, up_since_s=one.up_since_s)]

    def recall(self, learned: Iterable[Learned]) -> None:
        """Know what another scheduler knew: of engines that come up later their pace, of those that are the same their
        cache."""
        self._recalled = {one.model: one for one in learned}
        for model in self._recalled.keys() & self.ledger.accounts.keys():
            one, account = self._recalled.pop(model), self.ledger.accounts[model]
            self.accounting.devices[account.facts.device].recall(one)
            if account.up_since_s == one.up_since_s:
                self.accounting.prefix_cache.recall(one)

    def restore(self, reservations: Iterable[Reservation], now_s: float) -> None:
        """Take over from another scheduler: these chats are running. What waits arrives through `arrive`."""
        self.accounting.restore(reservations)
        self._review_s = now_s

    def arrive(self, ticket: Ticket, now_s: float) -> None:
        """A chat asks to be let in. Telling the same chat again changes nothing."""
        if ticket.chat in self.wait_queue.queues.entries or self.accounting.ledger.get(ticket.chat) is not None:
            return
        if ticket.model in self._given_up:
            self._out.append(self._overload.refuse(ticket, Reason.MODEL_DOWN, now_s))
            return
        account = self.accounting.ledger.accounts.get(ticket.model)
        choices = options(ticket, account.facts, self.settings) if account else ()
        refused = never(ticket, account.facts, choices, self.settings) if account else None
        if refused is not None:
            self._out.append(self.decision_log.record(ticket, refused, now_s))
            return
        turn = self.accounting.sessions.held(ticket.tenant, ticket.session, now_s) is not None
        crowded_out = self.wait_queue.crowded_out(ticket, turn)
        if crowded_out is not None:
            if crowded_out is not ticket:
                self._dispatch_cycle.leave(self.wait_queue.queues.entries[crowded_out.chat])
            self._out.append(self._overload.refuse(crowded_out, Reason.QUEUE_FULL, now_s))
            if crowded_out is ticket:
                return
        self.accounting.saw(ticket.tenant, ticket.model, now_s)
        entry = self.wait_queue.enter(ticket, turn)
        if account is not None:
            entry.weighed(account.facts, choices, None)
        self._arrived.append(ticket.chat)
        self._dispatch_cycle.arrived(entry)

    def cancel(self, chat: str, now_s: float) -> None:
        """The client went away before the chat ran: out of the queue, or out of the ledger. No charge."""
        entry = self.wait_queue.queues.entries.get(chat)
        if entry is not None:
            self._dispatch_cycle.leave(entry)
            self.decision_log.cancelled(chat, entry.ticket, now_s)
        elif (held := self.accounting.withdraw(chat, now_s)) is not None:
            self.decision_log.cancelled(chat, None, now_s)
            self._dispatch_cycle.released(held, now_s)

    def undo(self, decision: Decision, now_s: float) -> None:
        """The dispatch of an admission was refused: the ticket was withdrawn meanwhile."""
        self.cancel(decision.chat, now_s)

    def give_up(self, models: Collection[str], now_s: float) -> None:
        """These models fail for good; all others may be served. What waits for them is sent elsewhere or refused, and
        so is what comes, since nothing would ever let it in."""
        for model in set(models) - self._given_up:
            for flow in list(self.wait_queue.queues.per_model.get(model, {}).values()):
                for entry in list(flow.waiting):
                    self._dispatch_cycle.leave(entry)
                    self._out.append(self._overload.refuse(entry.ticket, Reason.MODEL_DOWN, now_s))
        self._given_up = frozenset(models)

    def may_spend(self, microusd: Mapping[str, int]) -> None:
        """What tenants have left for other providers this month. Those that are not named have no cap."""
        self._overload.overflow_budgets = dict(microusd)

    def unpaid(self, tenant: str) -> None:
        """It has less money than was thought: none of its chats is sent to another provider until the next
        `may_spend`."""
        self._overload.overflow_budgets[tenant] = -1

    def settle(self, chat: str, usage: ChatUsage | None, now_s: float) -> None:
        """A chat that was dispatched is over. `usage` None: it took nothing."""
        self._over(self.accounting.settle(chat, usage, now_s), usage, now_s)

    def lost(self, chat: str, now_s: float) -> None:
        """A chat's reservation is gone, and nobody said what it took: its estimate stands."""
        self._over(self.accounting.lost(chat, now_s), None, now_s)

    def _over(self, held: Reservation | None, usage: ChatUsage | None, now_s: float) -> None:
        if held is not None:
            self.decision_log.ended(held, usage, now_s)
            self._dispatch_cycle.released(held, now_s)

    def demoted(self, chat: str, bits: KvBits, now_s: float) -> None:
        """A running session's KV was lowered to `bits`: its reservation shrinks."""
        held = self.accounting.demoted(chat, bits, now_s)
        if held is not None:
            self._dispatch_cycle.released(held, now_s)

    def step(self, now_s: float) -> list[Decision]:
        """Decide until nothing more moves. Admissions among the answers are already in the ledger."""
        out, self._out = self._out, []
        self._due(now_s, out)
        if now_s >= self._review_s:
            self.wait_queue.prune()
            self._dispatch_cycle.review()
            self._review_s = now_s + self.settings.review_s
        self._dispatch_cycle.run(now_s, out)
        if self._arrived:
            self._refuse_early(now_s, out)
        return out

    def _due(self, now_s: float, out: list[Decision]) -> None:
        """Deadlines that passed, tickets that waited long enough to overflow, prefill backlogs that ended."""
        for what, name in self.wait_queue.timers.due(now_s):
            if what == "pace":
                self._dispatch_cycle.paced(name)
            elif (entry := self.wait_queue.queues.entries.get(name)) is not None:
                reason: Reason | None = Reason.DEADLINE
                if what == "overflow":
                    reason = self._overload.overflows(entry, now_s)
                if reason is not None:
                    self._dispatch_cycle.leave(entry)
                    out.append(self._overload.refuse(entry.ticket, reason, now_s))

    def _refuse_early(self, now_s: float, out: list[Decision]) -> None:
        """New sessions that just came and would wait past their deadline are refused at once."""
        fresh, self._arrived = self._arrived, []
        for chat in fresh:
            entry = self.wait_queue.queues.entries.get(chat)
            if entry is not None and self._overload.hopeless(entry, now_s):
                self._dispatch_cycle.leave(entry)
                out.append(self._overload.refuse(entry.ticket, Reason.DEADLINE, now_s))

    def next_step_s(self) -> float | None:
        """When a step may change something although nothing happens until then. 0: now. None: never."""
        if self._out or self._dispatch_cycle.pending:
            return 0.0
        if not self.wait_queue.queues.entries:
            return None
        timer_s = self.wait_queue.timers.next_s()
        return self._review_s if timer_s is None else min(self._review_s, timer_s)

    def waiting(self, chat: str) -> Ticket | None:
        """The chat's ticket while it waits, else None."""
        entry = self.wait_queue.queues.entries.get(chat)
        return entry.ticket if entry else None

    def reservations(self) -> list[Reservation]:
        """What the ledger holds."""
        return list(self.accounting.ledger)

    def wanted_models(self) -> list[str]:
        """Sleeping models that something waits for, most tenants first."""
        accounts, flows = self.accounting.ledger.accounts, self.wait_queue.queues.per_model
        asleep = [
            m for m in self.wait_queue.queues.models() if m in accounts and accounts[m].state is EngineState.ASLEEP
        ]
        return sorted(asleep, key=lambda model: len(flows[model]), reverse=True)

    def demotions(self) -> list[Demotion]:
        """Running sessions to lower now, so that blocked heads fit. Report each that was done with `demoted`."""
        accounts = self.accounting.ledger.accounts
        return [
            wanted
            for model, entry in self._dispatch_cycle.blocked_heads.items()
            if model in accounts
            for wanted in demotion.plan(entry.ticket, accounts[model], self.settings)
        ]

    def explain(self, chat: str, now_s: float) -> Explanation:
        """Why the chat waits, runs, ended or was refused."""
        entry = self.wait_queue.queues.entries.get(chat)
        if entry is None:
            return self.decision_log.known(chat, self.accounting.ledger.get(chat), now_s)
        holder = self._dispatch_cycle.holder(entry.ticket.model)
        counter = self.accounting.counters.value(entry.ticket.tenant)
        return self.decision_log.waiting(entry, self._now(entry, now_s), counter, holder, now_s)

    def _now(self, entry: Waiting, now_s: float) -> Decision:
        """What would be decided for a ticket if it came first now, and its place."""
        decision = self.accounting.decide(entry, now_s)
        position = entry.flow.ahead(entry) + 1
        return replace(decision, position=position, expected_wait_s=self._overload.expected_wait_s(entry))

    def snapshot(self, now_s: float) -> Snapshot:
        """Ledger, latencies and queues now, ready for JSON."""
        return take(self.accounting, self.wait_queue.queues, self.wanted_models(), now_s)

    def check_integrity(self) -> None:
        """Raise AssertionError where ledger, bandwidth, limits and queues disagree."""
        self.accounting.check_integrity()
        self.wait_queue.check_integrity()
