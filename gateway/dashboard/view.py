"""What the page "Now" shows, worked out from the admin API's overview and the engines' reports.

Bytes in, percentages of a device (or of a pool) out: templates only draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.admin.schemas import HostDevice, Model, Overview
from services.contracts.devices import CPU, Sharing, gpu_index
from services.contracts.engines import EngineReport
from services.contracts.snapshot import ModelSnapshot, Snapshot
from services.contracts.units import bytes_in_words

SELDOM = ("withheld", "aside")  # in the legend only where there is some
MAGNIFIED = 0.3  # a smaller part of the card is shown by itself
HUES = 6  # models beyond it share colours; names always stand beside them
NOT_LOADED = ("asleep", "down")  # states of a model whose engine holds no memory
KINDS = {
    "weights": "Weights",
    "overhead": "Engine overhead",
    "kv16": "KV at 16 bits",
    "kv8": "KV at 8 bits",
    "kv4": "KV at 4 bits",
    "cached": "Prefix cache",
    "withheld": "Held back",
    "free": "KV free",
    "aside": "Kept for a model that is not loaded",
    "reserve": "Safety reserve",
    "unplanned": "Not planned",
}
WHY = {
    "room": "next to be admitted",
    "kv_memory": "no KV memory is free",
    "bandwidth": "no memory bandwidth is free",
    "first_token": "earlier prompts are being read",
    "chats_max": "no slot is free",
    "tenant_limit": "at its own limit",
    "telemetry_stale": "no report from the engine",
    "model_down": "engine is down",
    "model_asleep": "model is asleep",
    "kv_bits": "engine's KV bits are below its floor",
}
CHANGING = {"starting": "engine is starting", "draining": "engine is being changed"}  # of engines that are not down


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a bar. `x` and `width` in percent."""

    kind: str
    size: int
    x: float
    width: float
    words: str


@dataclass(frozen=True, slots=True)
class Group:
    """One model's stretch of a device."""

    model: str
    hue: int
    size: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class CardView:
    """The memory map of one device."""

    device: str
    title: str
    total: int
    held: int  # weights, overhead and what is reserved or cached
    segments: list[Segment]
    groups: list[Group]
    sums: list[tuple[str, str, int]]  # kind, words, bytes: for the legend
    known: bool  # the card's size was measured, not summed up
    magnified: bool  # the map shows the models' part only, since it is small against the card


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One engine with its pool."""

    name: str
    hue: int
    device: str
    engine: str
    state: str
    stale: bool
    bits: int | None
    live: bool
    possible: list[int]
    pool: list[Segment]
    used: float  # percent of the pool that running chats hold right now
    pool_bytes: int
    reserved_bytes: int
    cached_bytes: int
    used_bytes: int
    running: int
    chats_max: int
    waiting: int
    observed_ms: float | None
    predicted_ms: float | None
    unattainable: bool
    job: str | None
    bots: list[str]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One model's part of the gauge, in percent of the whole scale."""

    model: str
    hue: int
    bytes_per_s: float
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """How much of a device's memory bandwidth decoding takes. `most`: None where it was not measured."""

    device: str
    bytes_per_s: float
    most: float | None
    stretches: list[Stretch]
    sharing: str = ""  # of a GPU: how its engines share it, in words

    @property
    def part(self) -> float | None:
        return None if self.most is None else min(100.0, 100.0 * self.bytes_per_s / self.most)


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant with chats or a queue."""

    name: str
    running: int
    waiting: int
    kv_bytes: int
    why: str | None
    part: float  # percent of the longest queue


@dataclass(frozen=True, slots=True)
class Now:
    """The whole page."""

    cards: list[CardView]
    models: list[ModelRow]
    bandwidths: list[Bandwidth]
    tenants: list[TenantRow]
    running: int
    waiting: int
    scheduler: bool
    sessions: int = 0
    counters: Mapping[str, float] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The state of the host in words."""
        if not self.scheduler:
            return "No scheduler is running, so no chat is admitted."
        ready = sum(row.state == "ready" and not row.stale for row in self.models)
        serving = f"{count(ready, 'model')} of {len(self.models)} ready," if ready < len(self.models) else ""
        serving = serving or f"{count(ready, 'model')} {'serves' if ready == 1 else 'serve'}"
        chats = count(self.running, "chat") if self.running else "no chat"
        waits = f"{count(self.waiting, 'chat')} {'waits' if self.waiting == 1 else 'wait'}"
        return f"{serving} {chats}. {waits if self.waiting else 'No chat is waiting'}."


def now(overview: Overview, reports: Mapping[str, EngineReport], bandwidth_bytes_per_s: Mapping[str, float]) -> Now:
    """From Overview, each model's last engine report, and the bandwidth of each device that has one."""
    snapshot, models = overview.snapshot, overview.models
    accounts = snapshot.models if snapshot else {}
    rows = [_row(place, model, accounts.get(model.name)) for place, model in enumerate(models)]
    devices = overview.devices
    on: dict[str, list[tuple[int, Model]]] = {device.id: [] for device in devices}  # hue and model
    for row, model in zip(rows, models, strict=True):
        on[row.device].append((row.hue, model))
    return Now(
        cards=[_card(device, _title(device.id, len(devices) == 1), on[device.id], accounts) for device in devices],
        models=rows,
        bandwidths=[
            _bandwidth(
                device.id, on[device.id], reports, bandwidth_bytes_per_s.get(device.id), _sharing(device, snapshot)
            )
            for device in devices
        ],
        tenants=_tenants(snapshot) if snapshot else [],
        running=sum(row.running for row in rows),
        waiting=snapshot.waiting if snapshot else 0,
        scheduler=snapshot is not None,
        sessions=snapshot.sessions if snapshot else 0,
        counters=snapshot.counters if snapshot else {},
    )


def _parts_of_pool(model: Model, account: ModelSnapshot | None) -> list[tuple[str, int]]:
    """The pool's bytes by kind, in the order they are drawn."""
    budget = model.kv_budget_bytes or 0
    if model.state in NOT_LOADED:
        return [("aside", budget)]
    if account is None:
        return [("free", budget)]
    parts = [(f"kv{bits}", account.reserved_by_bits.get(str(bits), 0)) for bits in (16, 8, 4)]
    parts += [("cached", account.cached_bytes), ("withheld", max(0, account.withheld_bytes))]
    left = max(0, budget - sum(size for _, size in parts))
    return [(kind, size) for kind, size in [*parts, ("free", left)] if size > 0]


def _parts(model: Model, account: ModelSnapshot | None) -> list[tuple[str, int]]:
    """All bytes of a model by kind, in the order they are drawn."""
    pool, fixed = _parts_of_pool(model, account), (model.weight_bytes or 0, model.overhead_bytes or 0)
    if model.state in NOT_LOADED:
        pool, fixed = [("aside", sum(size for _, size in pool) + sum(fixed))], (0, 0)
    parts = [("weights", fixed[0]), ("overhead", fixed[1]), *pool]
    return [(kind, size) for kind, size in parts if size > 0]


def _segments(parts: list[tuple[str, int]], total: int, start: int = 0, about: str = "") -> list[Segment]:
    made, at = [], start
    for kind, size in parts:
        words = f"{about}{KINDS[kind]}: {bytes_in_words(size)}"
        made.append(Segment(kind, size, 100.0 * at / total, 100.0 * size / total, words))
        at += size
    return made


def _title(device: str, alone: bool) -> str:
    if alone:
        return "Memory, no GPU" if device == CPU else "GPU memory"
    return "Memory of the machine" if device == CPU else f"Memory of {device}"


def _card(
    device: HostDevice, title: str, models: list[tuple[int, Model]], accounts: Mapping[str, ModelSnapshot]
) -> CardView:
    known, reserve = device.total_bytes, device.reserve_bytes or 0
    stretches = [(hue, model.name, _parts(model, accounts.get(model.name))) for hue, model in models]
    planned = sum(size for _, _, parts in stretches for _, size in parts)
    total = max(known or 0, planned + reserve, 1)
    rest = [("reserve", reserve), ("unplanned", total - planned - reserve)]
    magnified = 0 < planned < MAGNIFIED * total
    scale = planned if magnified else total
    segments: list[Segment] = []
    groups: list[Group] = []
    at = 0
    for hue, name, parts in stretches:
        size = sum(size for _, size in parts)
        segments += _segments(parts, scale, at, f"{name}. ")
        groups.append(Group(name, hue, size, 100.0 * at / scale, 100.0 * size / scale))
        at += size
    if not magnified:
        segments += _segments([(kind, size) for kind, size in rest if size > 0], scale, at)
    sums = {kind: sum(segment.size for segment in segments if segment.kind == kind) for kind in KINDS} | dict(rest)
    empty = ("free", "reserve", "unplanned", "withheld", "aside")
    return CardView(
        device=device.id,
        title=title,
        total=total,
        held=sum(size for kind, size in sums.items() if kind not in empty),
        segments=segments,
        groups=groups,
        sums=[(kind, words, sums[kind]) for kind, words in KINDS.items() if sums[kind] or kind not in SELDOM],
        known=known is not None,
        magnified=magnified,
    )


def _row(place: int, model: Model, account: ModelSnapshot | None) -> ModelRow:
    budget = model.kv_budget_bytes or 0
    pool = max(1, budget)
    used = account.used_bytes if account else 0
    return ModelRow(
        name=model.name,
        hue=place % HUES,
        device=model.device,
        engine=model.engine,
        state=model.state,
        stale=account is not None and account.stale,
        bits=model.kv_bits,
        live=model.kv_bits_live,
        possible=model.kv_bits_possible,
        pool=_segments(_parts_of_pool(model, account), pool) if budget else [],
        used=min(100.0, 100.0 * used / pool),
        pool_bytes=budget,
        reserved_bytes=account.reserved_bytes if account else 0,
        cached_bytes=account.cached_bytes if account else 0,
        used_bytes=used,
        running=account.running if account else model.running,
        chats_max=model.chats_max,
        waiting=sum(account.waiting.values()) if account else 0,
        observed_ms=_ms(account.observed_inter_token_s if account else None),
        predicted_ms=_ms(account.predicted_inter_token_s if account else None),
        unattainable=account is not None and account.target_unattainable,
        job=model.job,
        bots=model.bots,
    )


def _bandwidth(
    device: str,
    models: list[tuple[int, Model]],
    reports: Mapping[str, EngineReport],
    most: float | None,
    sharing: str,
) -> Bandwidth:
    """A step reads the weights and the running chats' KV once."""
    rates: list[tuple[int, str, float]] = []
    for hue, model in models:
        report = reports.get(model.name)
        if report and report.running and report.inter_token_s:
            rates.append((hue, model.name, ((model.weight_bytes or 0) + report.step_kv_bytes) / report.inter_token_s))
    total = sum(rate for *_, rate in rates)
    scale = max(most or total, total, 1.0)
    stretches, at = [], 0.0
    for hue, name, rate in rates:
        stretches.append(Stretch(name, hue, rate, 100.0 * at / scale, 100.0 * rate / scale))
        at += rate
    return Bandwidth(device, total, most, stretches, sharing)


def _sharing(device: HostDevice, snapshot: Snapshot | None) -> str:
    """A sentence, of GPUs alone."""
    there = snapshot.devices.get(device.id) if snapshot else None
    if there is None or gpu_index(device.id) is None:
        return ""
    if there.sharing == Sharing.SPACE:
        return "Models run side by side (CUDA MPS)."
    return f"Models take turns{f': {device.sharing_why}' if device.sharing_why else ''}."


def _tenants(snapshot: Snapshot) -> list[TenantRow]:
    waiting, running = snapshot.waiting_per_tenant, snapshot.chats_per_tenant
    longest = max([1, *waiting.values()])
    blocked: dict[str, str] = {}
    for model in snapshot.models.values():
        changing = CHANGING.get(model.state, WHY["model_down"])
        blocked |= {
            tenant: changing if reason == "model_down" else WHY.get(reason, reason)
            for tenant, reason in model.blocked.items()
        }
    rows = [
        TenantRow(
            name=tenant,
            running=running.get(tenant, 0),
            waiting=waiting.get(tenant, 0),
            kv_bytes=snapshot.kv_bytes_per_tenant.get(tenant, 0),
            why=blocked.get(tenant) if waiting.get(tenant) else None,
            part=100.0 * waiting.get(tenant, 0) / longest,
        )
        for tenant in {*waiting, *running}
    ]
    return sorted(rows, key=lambda row: (-row.waiting, -row.running, row.name))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def count(number: int, what: str) -> str:
    """`1 chat`, `3 chats`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
