"""The scheduler's loop: read events, decide, carry out. I/O is here, decisions are in `core`.

One process schedules at a time: it holds a lease, and every decision presents it, so one that lost it without noticing
changes nothing. Whoever takes over rebuilds everything from Redis: engines, reservations, waiting tickets, and what
watching the engines had taught.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from scheduler.core import Scheduler
from scheduler.ledger import reservation_of
from scheduler.overload import microusd
from scheduler.refusal_texts import WORDS, refusal
from scheduler.settings import SchedulerSettings
from services.contracts.chats import Ticket, TokenPrice
from services.contracts.control import ControlMessage
from services.contracts.decisions import Decision, Outcome, Reason
from services.contracts.devices import DeviceReport
from services.contracts.engines import EngineFacts, is_provider, provider_model, provider_of
from services.store.charges import month_of
from services.store.connection import QueueUnavailable
from services.store.records import SchedulerEvent
from services.store.scheduling import Dispatched, SchedulerStore

LEASE_MS = 3000
LEASE_KEEP_S = 1.0
STANDBY_S = 0.5
RETRY_S = 0.5
EVENT_BLOCK_MS = 100
LOOK_S = 1.0
SNAPSHOT_S = 0.25
SNAPSHOT_KEEP_MS = 3000
LEARNED_S = 5.0
WAITING_IS_NO_USE = (Reason.NEVER_FITS, Reason.KV_BITS, Reason.QUEUE_FULL)  # or there is no place for it

log = structlog.get_logger()


class LeaseLost(Exception):
    """Another scheduler has taken over."""


class AccountingBehind(Exception):
    """The state must be read anew: Redis holds reservations that it does not, because an answer was lost after its step
    was done; or the clock went back, and everything in it is in the future."""


class Loop:
    """Runs until cancelled. `settings` and `devices` are called about once a second: shares and targets may change
    live, and the ledger is checked against the last report of each device that has telemetry.
    """

    def __init__(
        self,
        store: SchedulerStore,
        settings: Callable[[], SchedulerSettings],
        *,
        name: str,
        clock: Callable[[], float],
        devices: Callable[[], Iterable[DeviceReport]] = tuple,
    ) -> None:
        self._store = store
        self._settings = settings
        self._devices = devices
        self._name = name
        self._clock = clock
        self._lease = ""
        self._tickets: dict[str, Ticket] = {}
        self._facts: dict[str, EngineFacts] = {}
        self._providers: dict[str, float] = {}  # overflow provider -> when its worker reported last
        self._given_up: set[str] = set()
        self._missing: set[str] = set()
        self._unknown: set[str] = set()
        self._asked: list[tuple[str, str]] = []  # where the answer goes, the chat that it is about
        self._lowered: list[str] = []
        self._core = Scheduler(settings())

    async def run(self) -> None:
        """Schedule whenever the lease is ours."""
        while True:
            try:
                lease = await self._store.take_lease(self._lease, self._name, LEASE_MS)
                if lease is None:
                    await asyncio.sleep(STANDBY_S)
                    continue
                self._lease = lease
                log.info("scheduler.leads", lease=lease)
                await self._lead()
            except LeaseLost:
                log.warning("scheduler.lost_lease", lease=self._lease)
            except AccountingBehind as behind:
                log.warning("scheduler.accounting_behind", why=str(behind))
            except QueueUnavailable as error:
                log.warning("scheduler.queues_unavailable", why=str(error))
                await asyncio.sleep(RETRY_S)

    async def resign(self) -> None:
        """Hand the lease back at a planned end."""
        await self._store.give_lease(self._lease)

    async def _lead(self) -> None:
        after = await self._take_over()
        keeper = asyncio.create_task(self._keep_lease())
        looked = shown = kept = 0.0
        try:
            while True:
                now = self._clock()
                if now < looked - LOOK_S:
                    raise AccountingBehind(f"the clock went back {looked - now:.0f} s")
                if now - looked >= LOOK_S:
                    looked = now
                    await self._poll(now)
                    await self._store.forget_events(after)
                await self._decide(now)
                if now - shown >= SNAPSHOT_S:
                    shown = now
                    await self._store.publish_snapshot(self._core.snapshot(now), SNAPSHOT_KEEP_MS)
                if now - kept >= LEARNED_S:
                    kept = now
                    await self._store.keep_learned(self._core.learned())
                if keeper.done():
                    keeper.result()
                after, events = await self._store.events(after, self._patience_ms(now))
                for event in events:
                    self._on_event(event, self._clock())
                await self._answer()
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def _patience_ms(self, now: float) -> int:
        """How long to wait for events: no longer than until a decision may change without one."""
        due_s = self._core.next_step_s()
        if due_s is None:
            return EVENT_BLOCK_MS
        return max(1, min(EVENT_BLOCK_MS, int((due_s - now) * 1000)))

    async def _take_over(self) -> str:
        """Rebuild from Redis. Events from the returned place on may repeat what was read: hearing twice is harmless."""
        self._core, self._tickets, self._facts = Scheduler(self._settings()), {}, {}
        self._missing, self._unknown = set(), set()
        after = await self._store.last_event()
        now = self._clock()
        await self._poll(now)
        self._core.recall(await self._store.learned())
        self._core.restore(await self._store.reservations(), now)
        for ticket in await self._store.waiting():
            self._on_event(SchedulerEvent("arrive", ticket.chat, ticket=ticket), now)
        log.info("scheduler.took_over", waiting=len(self._tickets))
        return after

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(LEASE_KEEP_S)
            held, lost = await self._store.take_lease(self._lease, self._name, LEASE_MS), self._lease
            if held != lost:
                self._lease = held or lost  # it ran out (the clock jumped, say) and is ours again, by another name
                raise LeaseLost

    async def _poll(self, now: float) -> None:
        """Once a second: engines, settings, and whether the ledger and Redis agree."""
        settings = self._settings()
        if settings != self._core.settings:
            self._core.configure(settings)
        for seen in await self._store.engines():
            if is_provider(seen.facts.model):  # no memory of ours, nothing to weigh
                self._providers[seen.facts.model] = seen.report.at_s
                continue
            if self._facts.get(seen.facts.model) != seen.facts:
                self._facts[seen.facts.model] = seen.facts
                self._core.engine_started(seen.facts, min(now, seen.report.at_s))
            self._core.engine_reported(seen.report)
        await self._count_money(settings, now)
        await self._give_up(await self._store.given_up(), now)
        for report in self._devices():
            self._core.device_reported(report)
        stored = {reservation.chat for reservation in await self._store.reservations()}
        gone = {held.chat for held in self._core.ledger} - stored
        for chat in gone & self._missing:  # twice in a row: not merely an event on its way
            log.warning("scheduler.reservation_gone", chat=chat)
            self._core.lost(chat, now)
        self._missing = gone
        unknown = {chat for chat in stored if self._core.ledger.get(chat) is None}
        if behind := unknown & self._unknown:
            raise AccountingBehind(f"{len(behind)} reservations were not known")
        self._unknown = unknown
        for model in self._core.wanted_models():
            await self._store.control(model, ControlMessage(wake=True))
        for demotion in self._core.demotions():
            message = ControlMessage(demote=demotion.chat, bits=demotion.kv_bits)
            await self._store.control(demotion.model, message)

    async def _give_up(self, models: set[str], now: float) -> None:
        """Models and providers whose worker nobody starts again: end what they have and what waits for them."""
        self._given_up = models
        self._core.give_up(models, now)
        for model in models:
            price = self._core.settings.overflow_prices.get(provider_of(model), TokenPrice())
            await self._store.end_dispatched(model, WORDS[Reason.MODEL_DOWN], price, now)

    async def _count_money(self, settings: SchedulerSettings, now: float) -> None:
        """What tenants with a cap may still spend, where there is somebody to spend it on."""
        most = {tenant: share.overflow_microusd_max for tenant, share in settings.shares.items()}
        caps = {tenant: cap for tenant, cap in most.items() if cap is not None and self._providers}
        spent = await self._store.spent(list(caps), now) if caps else []
        self._core.may_spend({tenant: cap - taken for (tenant, cap), taken in zip(caps.items(), spent, strict=True)})

    def _on_event(self, event: SchedulerEvent, now: float) -> None:
        if event.kind == "arrive" and event.ticket:
            self._tickets[event.chat] = event.ticket
            self._core.arrive(event.ticket, now)
            return
        if event.kind == "explain":
            self._asked.append((event.ask, event.chat))
            return
        if event.kind == "demoted" and event.kv_bits:
            self._core.demoted(event.chat, event.kv_bits, now)
            self._lowered.append(event.chat)
            return
        self._tickets.pop(event.chat, None)
        if event.kind == "cancel":
            self._core.cancel(event.chat, now)
        else:
            self._core.settle(event.chat, event.usage, now)

    async def _answer(self) -> None:
        """Do what events asked for and needs Redis: answer questions, shrink reservations."""
        lowered, self._lowered = self._lowered, []
        for chat in lowered:
            held = self._core.ledger.get(chat)
            if held is not None and await self._store.lower(self._lease, held) is Dispatched.FENCED:
                raise LeaseLost
        asked, self._asked = self._asked, []
        for ask, chat in asked:
            await self._store.explained(ask, self._core.explain(chat, self._clock()))

    def _served_elsewhere(self, ticket: Ticket, now: float) -> bool:
        """Whether the other provider's worker is there to take it."""
        reported_s = self._providers.get(provider_model(ticket.overflow_to or ""), 0.0)
        if provider_model(ticket.overflow_to or "") in self._given_up:
            return False
        return now - reported_s <= self._core.settings.telemetry_age_s_max

    async def _decide(self, now: float) -> None:
        decisions = self._core.step(now)
        if len(decisions) == 1:  # most often: two turns of the loop less
            await self._carry_out(decisions[0], now)
        elif decisions:
            await asyncio.gather(*(self._carry_out(decision, now) for decision in decisions))

    async def _carry_out(self, decision: Decision, now: float) -> None:
        """Make a decision true in Redis, at once with its reservation."""
        ticket = self._tickets.pop(decision.chat, None)
        if ticket is None:  # the event was repeated after it had ended
            self._core.undo(decision, now)
            return
        if decision.outcome in (Outcome.ADMIT, Outcome.ADMIT_DEMOTED):
            answer = await self._store.dispatch(self._lease, ticket, reservation_of(ticket, decision, now))
        elif decision.outcome is Outcome.OVERFLOW and self._served_elsewhere(ticket, now):
            answer = await self._overflow(ticket, decision, now)
            if answer is Dispatched.UNPAID:
                self._tickets[ticket.chat] = ticket
                if month_of(ticket.created_s) == month_of(now):  # else it was last month's money that is spent
                    self._core.unpaid(ticket.tenant)
                self._core.arrive(ticket, now)
                return
        else:
            answer = await self._store.refuse(self._lease, ticket, decision, refusal(decision), now)
        if answer is Dispatched.FENCED:
            raise LeaseLost
        if answer is Dispatched.GONE:
            self._core.undo(decision, now)
        log.info(
            "chat.decided",
            request=ticket.request,
            chat=ticket.chat,
            tenant=ticket.tenant,
            bot=ticket.bot,
            outcome=decision.outcome.value,
            reason=decision.reason.value,
            kv_bits=int(decision.kv_bits),
            waited_ms=round((now - ticket.created_s) * 1000),
        )

    async def _overflow(self, ticket: Ticket, decision: Decision, now: float) -> Dispatched:
        """To the other provider. UNPAID: its tenant has no money for it, and it may as well wait here."""
        settings, waited_s = self._core.settings, max(0.0, now - ticket.created_s)
        cost, most = microusd(ticket, settings), settings.share(ticket.tenant).overflow_microusd_max
        answer = await self._store.overflow(self._lease, ticket, waited_s, microusd=cost, microusd_max=most)
        no_use = decision.reason in WAITING_IS_NO_USE or ticket.model in self._given_up
        if answer is Dispatched.UNPAID and no_use:
            return await self._store.refuse(self._lease, ticket, decision, refusal(decision), now)
        return answer
