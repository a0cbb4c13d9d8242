"""The scheduler's state in one value, for the dashboard, the metrics and dry runs. Bytes, seconds, chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One engine: its memory, its latencies, what waits for it."""

    model: str
    device: str  # id of what it runs on
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
    service_rate_per_s: float | None
    expected_wait_s: float | None  # of a new session of a tenant with nothing waiting
    sharing: str = "turns"  # how its engine shares the device; a value of devices.Sharing


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device that engines run on. None where no telemetry says it."""

    device: str
    total_bytes: int | None
    used_bytes: int | None  # by every process on it
    drift_bytes: int | None  # of them used by others than the engines
    stale: bool  # its telemetry is older than `telemetry_age_s_max`
    bandwidth_bytes_per_s: float | None  # None: not measured, so it is not weighed
    prefill_backlog_s: float
    sharing: str = "turns"  # a value of devices.Sharing


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All engines and tenants at one time."""

    at_s: float
    models: Mapping[str, ModelSnapshot]
    waiting: int
    waiting_per_tenant: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    chats_per_tenant: Mapping[str, int] = field(default_factory=dict)
    kv_bytes_per_tenant: Mapping[str, int] = field(default_factory=dict)
    sessions: int = 0
    wanted_models: Sequence[str] = ()
    devices: Mapping[str, DeviceSnapshot] = field(default_factory=dict)  # by id
    unread: Sequence[str] = ()  # models that another version described so that this one cannot read it

    def as_dict(self) -> dict[str, object]:
        """Plain dicts, lists and numbers."""
        return asdict(self)
