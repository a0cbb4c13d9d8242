"""What an operator sets for the scheduler. Names carry their units; each bound is checked where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.contracts.chats import TokenPrice


@dataclass(frozen=True, slots=True)
class ModelTargets:
    """Latencies that an admission must not break for a model. None: no target."""

    inter_token_ms_max: float | None = None
    first_token_s_max: float | None = None


@dataclass(frozen=True, slots=True)
class TenantShare:
    """A tenant's weight and its own limits. None: no limit."""

    weight: float = 1.0
    chats_max: int | None = None
    kv_bytes_max: int | None = None
    overflow_microusd_max: int | None = None  # a month, of all chats that go to other providers
    limited: bool = field(init=False)  # has a limit of its own

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be above 0, not {self.weight}")
        object.__setattr__(self, "limited", (self.chats_max, self.kv_bytes_max) != (None, None))


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Everything the decisions depend on, beside tickets, ledger, reports and clock."""

    targets: Mapping[str, ModelTargets] = field(default_factory=dict)  # by model
    shares: Mapping[str, TenantShare] = field(default_factory=dict)  # by tenant; absent: TenantShare()
    bandwidth_bytes_per_s: Mapping[str, float] = field(default_factory=dict)  # by device id; absent: it is not weighed
    telemetry_age_s_max: float = 5.0
    session_idle_s: float = 120.0  # an idle session's turns keep going before new sessions that long
    waiting_max: int = 2000  # tickets over all tenants
    waiting_per_tenant_max: int = 500
    overflow_after_s: float = 10.0
    overflow_prices: Mapping[str, TokenPrice] = field(default_factory=dict)  # by provider
    drift_bytes_max: int = 256 * 2**20  # ledger against engine reports, per engine
    page_tokens: int = 16  # reservations are whole pages of so many tokens
    output_weight: float = 2.0  # a generated token's price, in prompt tokens
    cached_weight: float = 0.1  # a cached prompt token's price, in prompt tokens
    overtakes_max: int = 16  # so many smaller chats may overtake a blocked head
    lookahead_max: int = 8  # blocked chats looked past in one step, per model
    headroom: float = 0.1  # part of an engine's memory and slots kept from tenants above their share
    latency_headroom: float = 0.3  # part of each latency target kept from them
    latency_margin: float = 0.1  # part of each latency target kept from everyone, for what no prediction sees
    tenant_seen_s: float = 600.0  # a tenant is about that long after its last chat
    prefill_ahead_s_max: float = 0.25  # prompt work an engine may hold before it starts; more waits in our queue
    review_s: float = 0.25  # blocked chats are looked at again at least that often

    def __post_init__(self) -> None:
        for name in ("telemetry_age_s_max", "page_tokens", "lookahead_max", "review_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("headroom", "latency_headroom", "latency_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        for device, bandwidth in self.bandwidth_bytes_per_s.items():
            if not bandwidth > 0:
                raise ValueError(f"bandwidth_bytes_per_s of {device} must be above 0, not {bandwidth}")

    def share(self, tenant: str) -> TenantShare:
        """The tenant's share, or the default one."""
        return self.shares.get(tenant, _DEFAULT_SHARE)

    def target(self, model: str) -> ModelTargets:
        """The model's targets, or none."""
        return self.targets.get(model, _NO_TARGETS)


_DEFAULT_SHARE = TenantShare()
_NO_TARGETS = ModelTargets()
