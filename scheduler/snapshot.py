"""The scheduler's state in one value, for the dashboard and the metrics. Bytes, seconds, chats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from scheduler.books import Books
from scheduler.drain import expected_wait_s
from scheduler.ledger import Account
from scheduler.queues import Queues


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One engine: its memory, its latencies, what waits for it."""

    model: str
    state: str
    stale: bool
    budget_bytes: int
    reserved_bytes: int
    reserved_by_bits: Mapping[str, int]  # "4", "8", "16"
    used_bytes: int
    cached_bytes: int
    free_bytes: int
    withheld_bytes: int
    drift_bytes: int
    running: int
    chats_max: int
    predicted_inter_token_s: float | None
    observed_inter_token_s: float | None
    correction: float
    prefill_tokens_per_s: float | None
    target_unattainable: bool
    waiting: Mapping[str, int]  # by tenant
    blocked: Mapping[str, str]  # tenant -> why its first ticket waits
    drain_per_s: float | None
    expected_wait_s: float | None  # of a new session of a tenant with nothing waiting


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All engines and tenants at one time."""

    at_s: float
    models: Mapping[str, ModelSnapshot]
    waiting: int
    waiting_per_tenant: Mapping[str, int]
    counters: Mapping[str, float]
    chats_per_tenant: Mapping[str, int]
    kv_bytes_per_tenant: Mapping[str, int]
    sessions: int
    wanted_models: list[str]
    prefill_backlog_s: float
    device_drift_bytes: int | None  # what strangers use of the device's memory; None: nobody can tell

    def as_dict(self) -> dict[str, object]:
        """Plain dicts, lists and numbers."""
        return asdict(self)


def take(books: Books, queues: Queues, wanted_models: list[str], now_s: float) -> Snapshot:
    """Read everything; changes nothing."""
    uses = books.limits.use.items()
    return Snapshot(
        at_s=now_s,
        models={m: _model(books, queues, account, now_s) for m, account in books.ledger.accounts.items()},
        waiting=len(queues),
        waiting_per_tenant=dict(queues.per_tenant),
        counters={tenant: key[0] for tenant, key in books.counters.keys.items()},
        chats_per_tenant={tenant: use.chats for tenant, use in uses if use.chats},
        kv_bytes_per_tenant={tenant: use.kv_bytes for tenant, use in uses if use.kv_bytes},
        sessions=len(books.sessions),
        wanted_models=wanted_models,
        prefill_backlog_s=books.device.prefill_backlog_s(now_s),
        device_drift_bytes=books.ledger.device_drift_bytes,
    )


def _model(books: Books, queues: Queues, account: Account, now_s: float) -> ModelSnapshot:
    model = account.facts.model
    load, lanes = books.device.loads[model], queues.per_model.get(model, {})
    running = len(account.reservations)
    per_s = books.drain.per_s(model, running)
    wait_s = None if per_s is None else expected_wait_s(per_s, 0, 1.0 / (len(lanes) + 1))
    return ModelSnapshot(
        model=model,
        state=account.state.value,
        stale=now_s - account.heard_s > books.settings.telemetry_age_s_max,
        budget_bytes=account.total_bytes,
        reserved_bytes=account.reserved_bytes,
        reserved_by_bits={str(bits): size for bits, size in sorted(account.by_bits().items())},
        used_bytes=account.report.kv_used_bytes if account.report else 0,
        cached_bytes=account.cached_bytes,
        free_bytes=account.free_bytes,
        withheld_bytes=account.withheld_bytes,
        drift_bytes=account.drift_bytes,
        running=running,
        chats_max=account.facts.chats_max,
        predicted_inter_token_s=books.device.predicted_s(model, now_s),
        observed_inter_token_s=load.observed_s,
        correction=load.correction,
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        target_unattainable=load.unattainable,
        waiting={tenant: len(lane.waiting) for tenant, lane in lanes.items()},
        blocked={tenant: lane.blocked.reason.value for tenant, lane in lanes.items() if lane.blocked},
        drain_per_s=per_s,
        expected_wait_s=wait_s if lanes else 0.0,
    )
