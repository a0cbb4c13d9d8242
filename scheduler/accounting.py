"""Accounting: every record that an admitted chat is entered in, kept in step.

    ledger        KV bytes            devices        bandwidth and prefill   sessions      leases
    counters      fair shares         limits         the tenant's bounds     service_rate  how long chats take
    prefix_cache  how much of an earlier turn the engine still has cached

One admission or settlement touches all of them, so nothing else writes to any.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scheduler.admission import AdmissionContext, decide, decide_now, engine_unknown, never, options, slots_kept
from scheduler.estimates import PrefixCacheEstimator, ServiceRate
from scheduler.fairness import ActiveTenants, Counters, SlotUse
from scheduler.ledger import Account, Ledger, Limits, reservation_of, reserve_bytes
from scheduler.settings import SchedulerSettings
from scheduler.step_time import StepTimeModel
from scheduler.wait_queue import SessionLeases, Waiting
from services.contracts.chats import ChatUsage, KvBits
from services.contracts.decisions import Decision, Reservation
from services.contracts.engines import EngineFacts


@dataclass(slots=True)
class ServiceCharge:
    """What a chat was charged when it was let in: an estimate, corrected when it settles."""

    counted: float  # in the tenant's counter
    prefill_s: float
    prompt_tokens_kept: int = 0
    new_of: str = ""  # the bot, where the chat opens a conversation


class Accounting:
    """The records of all devices. O(log n) or better per entry."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        self.ledger = Ledger()
        self.devices: dict[str, StepTimeModel] = {}  # by device id, from its first engine on
        self.counters = Counters(settings)
        self.sessions = SessionLeases()
        self.limits = Limits()
        self.service_rate = ServiceRate()
        self.prefix_cache = PrefixCacheEstimator()
        self._active_tenants: dict[str, ActiveTenants] = {}
        self._slot_use: dict[str, SlotUse] = {}
        self._charges: dict[str, ServiceCharge] = {}

    def configure(self, settings: SchedulerSettings) -> None:
        """Other shares, targets and bounds."""
        self.settings = self.counters.settings = settings
        for device in self.devices.values():
            device.configure(settings)
        for active in self._active_tenants.values():
            active.configure(settings)

    def engine_started(self, facts: EngineFacts, now_s: float) -> None:
        """A new engine, or one that came back, perhaps on another device. Its chats stay."""
        before = self.ledger.accounts.get(facts.model)
        moved = before is None or before.facts.device != facts.device
        if before is not None and moved:
            self.devices[before.facts.device].leave(facts.model)
        account = self.ledger.started(facts, now_s)
        device = self.devices.get(facts.device)
        if device is None:
            device = self.devices[facts.device] = StepTimeModel(self.settings, facts.device)
        device.started(facts)
        if moved:
            for held in account.reservations.values():
                device.add(held.model, held.reserved_bytes)

    def device_of(self, model: str) -> StepTimeModel | None:
        """The device that the model's engine is on; None while the engine is unknown."""
        account = self.ledger.accounts.get(model)
        return self.devices[account.facts.device] if account is not None else None

    def saw(self, tenant: str, model: str, now_s: float) -> None:
        """The tenant asks for the model."""
        active = self._active_tenants.get(model)
        if active is None:
            active = self._active_tenants[model] = ActiveTenants(self.settings)
        active.saw(tenant, now_s)

    def over_share(self, tenant: str, account: Account, now_s: float) -> bool:
        """Whether the tenant holds more than its part of what is reserved on an engine, while others are about."""
        held = account.by_tenant.get(tenant)
        if held is None:
            return False
        return held > self._active_tenants[account.facts.model].share(tenant, now_s) * account.reserved_bytes

    def _leaves_slots(self, tenant: str, account: Account, over_share: bool, now_s: float) -> bool:
        """Whether the last free slots of an engine are kept from the tenant, for others that are about."""
        model = account.facts.model
        part, use = self._active_tenants[model].share(tenant, now_s), self._slot_use.get(model)
        if part >= 1.0 or use is None:
            return over_share
        return not use.light(tenant, part, now_s) if over_share else use.heavy(tenant, part, now_s)

    def decide(self, entry: Waiting, now_s: float) -> Decision:
        """The decision for one ticket, from the records as they are. Changes nothing."""
        ticket = entry.ticket
        account = self.ledger.accounts.get(ticket.model)
        if account is None:
            return engine_unknown(ticket, now_s)
        return decide(ticket, account, self.devices[account.facts.device], self.context(entry, account, now_s), now_s)

    def decide_now(self, entry: Waiting, account: Account, context: AdmissionContext, now_s: float) -> Decision:
        """The same for a ticket that is not past its deadline, in less time."""
        return entry.refused or decide_now(entry.ticket, account, self.devices[account.facts.device], context, now_s)

    def context(self, entry: Waiting, account: Account, now_s: float) -> AdmissionContext:
        """What a decision needs to know of the ticket and its tenant."""
        ticket = entry.ticket
        if entry.facts is not account.facts:
            choices = options(ticket, account.facts, self.settings)
            entry.weighed(account.facts, choices, never(ticket, account.facts, choices, self.settings))
        tenant = ticket.tenant
        context = AdmissionContext(entry.options, ticket.prompt_tokens, 0, self.over_share(tenant, account, now_s))
        if entry.turn:
            lease = self.sessions.held(tenant, ticket.session, now_s)
            context.prompt_tokens_kept = min(lease.tokens if lease else 0, ticket.prompt_tokens - 1)
        context.prompt_tokens_new -= self.prefix_cache.expected(
            ticket.model, ticket.bot, context.prompt_tokens_kept, ticket.prompt_tokens
        )
        if account.chats_free <= slots_kept(account.facts.chats_max, self.settings.headroom):
            context.leaves_slots = self._leaves_slots(tenant, account, context.over_share, now_s)
        share = self.settings.share(tenant)
        if share.limited and context.options:
            context.limit = self.limits.reached(tenant, share, context.options[-1][1])
            context.bytes_left = self.limits.bytes_left(tenant, share)
        return context

    def admit(
        self, entry: Waiting, account: Account, decision: Decision, context: AdmissionContext, now_s: float
    ) -> None:
        """Enter an admitted chat, with an estimate of what it will take."""
        ticket, size = entry.ticket, decision.reserve_bytes
        device = self.devices[account.facts.device]
        self.ledger.reserve(reservation_of(ticket, decision, now_s))
        completion = self.limits.completion_estimate(ticket)
        cost = self.counters.cost(ticket.prompt_tokens, ticket.prompt_tokens - context.prompt_tokens_new, completion)
        prefill_s = device.prefill_s(ticket.model, context.prompt_tokens_new)
        counted = self.counters.admit(ticket.tenant, cost, now_s)
        new_of = ticket.bot if ticket.opening else ""
        self._charges[ticket.chat] = ServiceCharge(counted, prefill_s, context.prompt_tokens_kept, new_of)
        device.add(ticket.model, size)
        device.prefill(ticket.model, prefill_s, now_s)
        self.limits.take(ticket.tenant, size)
        self._use_slot(ticket.model, ticket.tenant, 1, now_s)
        self.sessions.begin(ticket.tenant, ticket.session)

    def withdraw(self, chat: str, now_s: float) -> Reservation | None:
        """An admitted chat never ran: all of its charge is given back."""
        charge = self._charges.pop(chat, None)
        held = self._release(chat, now_s)
        if held is not None:
            self.sessions.drop(held.tenant, held.session)
            if charge is not None:
                self.counters.settle(held.tenant, charge.counted, 0.0)
                device = self.device_of(held.model)
                if device is not None:
                    device.prefill_undone(held.model, charge.prefill_s)
        return held

    def settle(self, chat: str, usage: ChatUsage | None, now_s: float) -> Reservation | None:
        """A chat that was dispatched is over. `usage` None: it took nothing."""
        known = self._charges.pop(chat, None)
        charge = known or ServiceCharge(0.0, 0.0)
        tokens = usage.prompt_tokens + usage.completion_tokens if usage else 0
        held = self._release(chat, now_s)
        if held is None:
            return None
        self.sessions.end(held.tenant, held.session, now_s + self.settings.session_idle_s, tokens)
        if usage is None:
            self.counters.settle(held.tenant, charge.counted, 0.0)
        else:
            if usage.cached_known:
                if charge.prompt_tokens_kept > 0:
                    self.prefix_cache.turn_settled(held.model, charge.prompt_tokens_kept, usage.cached_tokens)
                elif charge.new_of:
                    self.prefix_cache.session_settled(held.model, charge.new_of, usage.cached_tokens)
            if usage.ran_s is not None and known is not None:
                account = self.ledger.accounts.get(held.model)
                beside = len(account.reservations) if account else 0
                self.service_rate.settled(held.model, usage.ran_s, beside + 1)
            self.limits.completed(held.tenant, usage.completion_tokens)
            cost = self.counters.cost(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            self.counters.settle(held.tenant, charge.counted, cost)
        return held

    def lost(self, chat: str, now_s: float) -> Reservation | None:
        """A chat is gone, and nobody said what it took: its estimate stands."""
        self._charges.pop(chat, None)
        held = self._release(chat, now_s)
        if held is not None:
            self.sessions.end(held.tenant, held.session, now_s + self.settings.session_idle_s, 0)
        return held

    def _release(self, chat: str, now_s: float) -> Reservation | None:
        held = self.ledger.release(chat, now_s)
        if held is not None:
            device = self.device_of(held.model)
            if device is not None:
                device.remove(held.model, held.reserved_bytes)
            self.limits.give(held.tenant, held.reserved_bytes)
            self._use_slot(held.model, held.tenant, -1, now_s)
        return held

    def _use_slot(self, model: str, tenant: str, by: int, now_s: float) -> None:
        use = self._slot_use.get(model)
        if use is None:
            use = self._slot_use[model] = SlotUse(now_s)
        use.add(tenant, by, now_s)

    def demoted(self, chat: str, bits: KvBits, now_s: float) -> Reservation | None:
        """A running chat's KV was lowered to `bits`: its reservation shrinks. None where nothing changes."""
        held = self.ledger.get(chat)
        account = self.ledger.accounts.get(held.model) if held else None
        if held is None or account is None or bits >= held.kv_bits:
            return None
        size = reserve_bytes(account.facts, held.tokens_max, bits, self.settings.page_tokens)
        account.remove(chat, now_s)
        account.add(replace(held, kv_bits=bits, reserved_bytes=size))
        self.devices[account.facts.device].grow(held.model, size - held.reserved_bytes)
        self.limits.use[held.tenant].kv_bytes += size - held.reserved_bytes
        return held

    def restore(self, reservations: Iterable[Reservation]) -> None:
        """Only these chats run. They are charged in full when they settle."""
        self.ledger.restore(reservations)
        for device in self.devices.values():
            device.clear()
        self._charges.clear()
        self._slot_use.clear()
        self.limits, self.sessions = Limits(), SessionLeases()
        for held in self.ledger:
            if (at := self.device_of(held.model)) is not None:
                at.add(held.model, held.reserved_bytes)
            self.limits.take(held.tenant, held.reserved_bytes)
            self._use_slot(held.model, held.tenant, 1, held.admitted_s)
            self.sessions.begin(held.tenant, held.session)

    def check_integrity(self) -> None:
        """Raise AssertionError where two records disagree."""
        self.ledger.check_integrity()
        if sorted(model for device in self.devices.values() for model in device.loads) != sorted(self.ledger.accounts):
            raise AssertionError("the devices' engines are not the ledger's")
        for device in self.devices.values():
            device.check_integrity(self.ledger)
        self.limits.check_integrity(self.ledger)
