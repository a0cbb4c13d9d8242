"""Who holds how many bytes of KV memory: each engine at every precision, each tenant over all models.

Formula, per engine, in bytes:

    total = free + reserved + cached + withheld        (+ overcommitted, see below, on the left)
    available to a new chat = free + cached

`total` is the engine's pool (0 while it sleeps), `reserved` what admitted chats may grow to, `cached`
prefixes that the engine gives up when memory is short, `withheld` what the engine uses beyond what the
ledger knows of (drift), once that passes a bound, and its part of what strangers use of the device (NVML) once
that runs out of memory. Drift only ever lowers what is available. Fails closed: an engine that has not reported
for too long is full.

`overcommitted` is above 0 only after an engine came back with a smaller pool than its chats hold.

A tenant's limits are chats at once and KV bytes; None: no limit. Requests and tokens a minute are the gateway's.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scheduler.settings import TenantShare
from services.contracts.chats import Ticket
from services.contracts.decisions import Decision, Reservation
from services.contracts.devices import DeviceReport
from services.contracts.engines import EngineFacts, EngineReport, EngineState

_REPORT_LAG_S = 1.0  # a report may still count chats that were released so long before it


def reserve_bytes(facts: EngineFacts, tokens: int, bits: int, page_tokens: int) -> int:
    """Bytes that `tokens` take at `bits`, in whole pages. Raises KeyError for bits the engine cannot hold."""
    per_token = facts.kv_bytes_per_token[bits]
    paged = -(-tokens // page_tokens) * page_tokens * per_token
    if paged <= facts.kv_budget_bytes:
        return paged
    return min(paged, max(tokens * per_token, facts.kv_budget_bytes))


def reservation_of(ticket: Ticket, decision: Decision, now_s: float) -> Reservation:
    """The ledger's line for an admitted ticket."""
    return Reservation(
        chat=ticket.chat,
        tenant=ticket.tenant,
        session=ticket.session,
        model=ticket.model,
        kv_bits=decision.kv_bits,
        reserved_bytes=decision.reserve_bytes,
        admitted_s=now_s,
        tokens_max=ticket.tokens_max,
        demotable=ticket.demotable,
        kv_bits_floor=ticket.kv_bits_floor,
    )


class Account:
    """One engine's side of the ledger."""

    __slots__ = (
        "_device_withheld",
        "_released",
        "_withheld",
        "available_bytes",
        "by_tenant",
        "drift_bytes",
        "facts",
        "report",
        "reported_s",
        "reservations",
        "reserved_bytes",
        "state",
        "total_bytes",
    )

    def __init__(self, facts: EngineFacts, now_s: float) -> None:
        self.facts = facts
        self.state = EngineState.READY
        self.reported_s = now_s
        self.report: EngineReport | None = None
        self.reservations: dict[str, Reservation] = {}
        self.reserved_bytes = 0
        self.by_tenant: dict[str, int] = {}
        self.drift_bytes = 0
        self._withheld = 0
        self._device_withheld = 0
        self._released: deque[tuple[float, int]] = deque()
        self.total_bytes = facts.kv_budget_bytes  # the pool's size, 0 while the engine sleeps
        self.available_bytes = 0  # what a new chat can have: free, or cached and given up for it
        self._add_up()

    @property
    def up_since_s(self) -> float:
        """When the engine that reported last came up; 0 before it reports."""
        return self.report.up_since_s if self.report else 0.0

    @property
    def overcommitted_bytes(self) -> int:
        return max(0, self.reserved_bytes - self.total_bytes)

    @property
    def withheld_bytes(self) -> int:
        return min(self._withheld + self._device_withheld, max(0, self.total_bytes - self.reserved_bytes))

    @property
    def cached_bytes(self) -> int:
        return min(self.report.kv_cached_bytes if self.report else 0, self.available_bytes)

    @property
    def free_bytes(self) -> int:
        return self.available_bytes - self.cached_bytes

    @property
    def chats_free(self) -> int:
        return self.facts.chats_max - len(self.reservations)

    def _add_up(self) -> None:
        left = self.total_bytes - self.reserved_bytes - self._withheld - self._device_withheld
        self.available_bytes = left if left > 0 else 0

    def by_bits(self) -> dict[int, int]:
        """Reserved bytes at each precision."""
        totals: dict[int, int] = {}
        for held in self.reservations.values():
            totals[int(held.kv_bits)] = totals.get(int(held.kv_bits), 0) + held.reserved_bytes
        return totals

    def add(self, held: Reservation) -> None:
        """Enter a reservation; the chat's earlier one, if any, is replaced."""
        if held.chat in self.reservations:
            self.remove(held.chat, held.admitted_s)
        tenant, size = held.tenant, held.reserved_bytes
        self.reservations[held.chat] = held
        self.reserved_bytes += size
        self.by_tenant[tenant] = self.by_tenant.get(tenant, 0) + size
        self._add_up()

    def remove(self, chat: str, now_s: float) -> Reservation | None:
        """Take a reservation out. Unknown chats: None."""
        held = self.reservations.pop(chat, None)
        if held is None:
            return None
        tenant, size = held.tenant, held.reserved_bytes
        self.reserved_bytes -= size
        left = self.by_tenant[tenant] - size
        if left:
            self.by_tenant[tenant] = left
        else:
            del self.by_tenant[tenant]
        self._released.append((now_s, size))
        self._add_up()
        return held

    def reported(self, report: EngineReport, drift_bytes_max: int) -> None:
        """Check the ledger against the engine. Bytes it uses beyond `drift_bytes_max` more are withheld."""
        while self._released and self._released[0][0] < report.at_s - _REPORT_LAG_S:
            self._released.popleft()
        leaving = sum(size for _, size in self._released)
        self.report = report
        self.state = report.state
        self.total_bytes = 0 if report.state is EngineState.ASLEEP else self.facts.kv_budget_bytes
        self.reported_s = max(self.reported_s, report.at_s)
        self.drift_bytes = max(0, report.kv_used_bytes - self.reserved_bytes - leaving)
        self._withheld = self.drift_bytes if self.drift_bytes > drift_bytes_max else 0
        self._add_up()

    def restarted(self, facts: EngineFacts, now_s: float) -> None:
        """The engine came back with these flags. Reservations stay."""
        self.facts, self.state, self.reported_s = facts, EngineState.READY, now_s
        self.report, self.drift_bytes, self._withheld, self.total_bytes = None, 0, 0, facts.kv_budget_bytes
        self._add_up()

    def withhold_for_device(self, size: int) -> None:
        """This much is kept back because the device, not the engine, is short."""
        self._device_withheld = size
        self._add_up()

    def clear(self) -> None:
        """Forget all reservations."""
        self.reservations.clear()
        self.by_tenant.clear()
        self.reserved_bytes = 0
        self._add_up()


class Ledger:
    """All accounts, and each chat's reservation. One writer, so no locks."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._model_of: dict[str, str] = {}
        self._orphans: dict[str, Reservation] = {}  # restored before their engine was known
        self.device_reports: dict[str, DeviceReport] = {}  # the last of each device
        self.device_drift_bytes: dict[str, int] = {}  # by device, from its first report on

    def started(self, facts: EngineFacts, now_s: float) -> Account:
        """A new engine, or an engine that came back with other flags. Reservations stay."""
        account = self.accounts.get(facts.model)
        if account is None:
            account = self.accounts[facts.model] = Account(facts, now_s)
        account.restarted(facts, now_s)
        for chat in [c for c, held in self._orphans.items() if held.model == facts.model]:
            account.add(self._orphans.pop(chat))
        return account

    def device_reported(self, report: DeviceReport, drift_bytes_max: int) -> None:
        """Check the device's engines against it. What strangers use beyond the bound is drift; while less than the
        bound is free on the device, it is withheld from its engines, each in proportion to its pool.
        """
        self.device_reports[report.device] = report
        awake = [a for a in self.accounts.values() if a.facts.device == report.device and a.total_bytes]
        known = sum(a.facts.weight_bytes + a.facts.overhead_bytes + a.total_bytes for a in awake)
        drift = self.device_drift_bytes[report.device] = max(0, report.used_bytes - known)
        short = report.total_bytes - report.used_bytes < drift_bytes_max < drift
        pools = sum(account.total_bytes for account in awake)
        for account in awake:
            account.withhold_for_device(drift * account.total_bytes // pools if short else 0)

    def reserve(self, held: Reservation) -> None:
        account = self.accounts.get(held.model)
        self._model_of[held.chat] = held.model
        if account is None:
            self._orphans[held.chat] = held
        else:
            account.add(held)

    def release(self, chat: str, now_s: float) -> Reservation | None:
        model = self._model_of.pop(chat, None)
        if model is None:
            return None
        account = self.accounts.get(model)
        return account.remove(chat, now_s) if account else self._orphans.pop(chat, None)

    def get(self, chat: str) -> Reservation | None:
        model = self._model_of.get(chat)
        if model is None:
            return None
        account = self.accounts.get(model)
        return account.reservations.get(chat) if account else self._orphans.get(chat)

    def restore(self, reservations: Iterable[Reservation]) -> None:
        """Forget all reservations and take these."""
        for account in self.accounts.values():
            account.clear()
        self._model_of.clear()
        self._orphans.clear()
        for held in reservations:
            self.reserve(held)

    def __iter__(self) -> Iterator[Reservation]:
        for account in self.accounts.values():
            yield from account.reservations.values()
        yield from self._orphans.values()

    def check_integrity(self) -> None:
        """Raise AssertionError where a sum does not add up."""
        for model, account in self.accounts.items():
            reserved = sum(held.reserved_bytes for held in account.reservations.values())
            _equal(f"{model}: reserved", account.reserved_bytes, reserved)
            _equal(f"{model}: by tenant", sum(account.by_tenant.values()), reserved)
            parts = account.free_bytes + account.reserved_bytes + account.cached_bytes + account.withheld_bytes
            _equal(f"{model}: total", parts, account.total_bytes + account.overcommitted_bytes)
            for name in ("free_bytes", "cached_bytes", "withheld_bytes", "reserved_bytes"):
                if getattr(account, name) < 0:
                    raise AssertionError(f"{model}: {name} is {getattr(account, name)}")
        _equal("chats", len(self._model_of), sum(1 for _ in self))


def _equal(what: str, left: int, right: int) -> None:
    if left != right:
        raise AssertionError(f"{what}: {left} is not {right}")


_ANSWER_SMOOTHING = 0.1


@dataclass(slots=True)
class LimitUse:
    """What one tenant holds now, over all models."""

    chats: int = 0
    kv_bytes: int = 0
    completion_tokens: float | None = None  # smoothed, for estimates


class Limits:
    """Use of all tenants against their shares."""

    def __init__(self) -> None:
        self.use = defaultdict[str, LimitUse](LimitUse)

    def reached(self, tenant: str, share: TenantShare, need_bytes: int) -> str | None:
        """The name of the limit that keeps a chat of this size waiting until another chat ends, or None."""
        if share.chats_max is not None and self.use[tenant].chats >= share.chats_max:
            return "chats_max"
        left = self.bytes_left(tenant, share)
        return "kv_bytes_max" if left is not None and need_bytes > left else None

    def bytes_left(self, tenant: str, share: TenantShare) -> int | None:
        """What the tenant may still reserve; None: as much as there is."""
        return None if share.kv_bytes_max is None else share.kv_bytes_max - self.use[tenant].kv_bytes

    def take(self, tenant: str, kv_bytes: int) -> None:
        use = self.use[tenant]
        use.chats += 1
        use.kv_bytes += kv_bytes

    def give(self, tenant: str, kv_bytes: int) -> None:
        """A chat ended."""
        use = self.use[tenant]
        # Written out where all chats pass: a call of `max` takes 0.06 us.
        chats, size = use.chats - 1, use.kv_bytes - kv_bytes
        use.chats = chats if chats > 0 else 0
        use.kv_bytes = size if size > 0 else 0

    def completed(self, tenant: str, tokens: int) -> None:
        """Learn how long the tenant's answers are."""
        use = self.use[tenant]
        before = use.completion_tokens
        use.completion_tokens = float(tokens) if before is None else before + _ANSWER_SMOOTHING * (tokens - before)

    def completion_estimate(self, ticket: Ticket) -> float:
        """Tokens that the answer is expected to have: the tenant's mean, at first half of what is allowed."""
        most, mean = ticket.max_tokens, self.use[ticket.tenant].completion_tokens
        if mean is None:
            return most / 2
        return mean if mean < most else float(most)

    def check_integrity(self, ledger: Ledger) -> None:
        """Raise AssertionError where chats or bytes held differ from the ledger's."""
        chats: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for held in ledger:
            chats[held.tenant] = chats.get(held.tenant, 0) + 1
            sizes[held.tenant] = sizes.get(held.tenant, 0) + held.reserved_bytes
        for tenant, use in self.use.items():
            if (use.chats, use.kv_bytes) != (chats.get(tenant, 0), sizes.get(tenant, 0)):
                raise AssertionError(
                    f"{tenant}: limits count {use.chats} chats with {use.kv_bytes} bytes, "
                    f"the ledger {chats.get(tenant, 0)} with {sizes.get(tenant, 0)}"
                )
