"""The host's state as Prometheus gauges, from the snapshot that the scheduler publishes."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.desk.waiting import WaitingVisitors
from services.contracts.devices import Sharing
from services.contracts.snapshot import Snapshot

# Field of a model's snapshot, metric, help.
_PER_MODEL = (
    ("budget_bytes", "bunkhouse_kv_budget_bytes", "KV memory that a model may hand out."),
    ("used_bytes", "bunkhouse_kv_used_bytes", "KV memory that a model's engine reports as held by running chats."),
    ("cached_bytes", "bunkhouse_kv_cached_bytes", "KV memory kept for reuse; given up when room is short."),
    ("free_bytes", "bunkhouse_kv_free_bytes", "KV memory that is neither reserved nor withheld."),
    ("drift_bytes", "bunkhouse_kv_drift_bytes", "Engine's report above the ledger."),
    ("running", "bunkhouse_chats_running", "Chats admitted and not yet settled."),
)


class HostCollector(Collector):
    """Gauges of the last snapshot. Without one there are no samples: absent is not zero."""

    def __init__(self, *, per_tenant: bool = False) -> None:
        self._per_tenant = per_tenant
        self.snapshot: Snapshot | None = None
        self.handovers_failed: int | None = None
        self.visitors: WaitingVisitors | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called by prometheus_client at every scrape."""
        if self.handovers_failed is not None:
            text = "Handovers to people that were given up and not sent again."
            yield GaugeMetricFamily("bunkhouse_handovers_failed", text, value=self.handovers_failed)
        if self.visitors is not None:
            text = "Visitors who wait for a person, of bots whose people are there now."
            yield GaugeMetricFamily("bunkhouse_visitors_waiting", text, value=self.visitors.count)
            text = "How long the first of them has waited."
            yield GaugeMetricFamily("bunkhouse_visitors_waiting_seconds", text, value=self.visitors.longest_s)
        if self.snapshot is None:
            return
        models = self.snapshot.models
        for field, name, text in _PER_MODEL:
            family = GaugeMetricFamily(name, text, labels=("model",))
            for model, seen in models.items():
                family.add_metric((model,), getattr(seen, field))
            yield family
        reserved = GaugeMetricFamily(
            "bunkhouse_kv_reserved_bytes", "KV memory reserved for admitted chats.", labels=("model", "kv_bits")
        )
        latency = GaugeMetricFamily(
            "bunkhouse_inter_token_seconds", "Predicted and observed time a token.", labels=("model", "kind")
        )
        up = GaugeMetricFamily("bunkhouse_engine_up", "1 in the state the engine is in.", labels=("model", "state"))
        for model, seen in models.items():
            for bits, size in seen.reserved_by_bits.items():
                reserved.add_metric((model, bits), size)
            times = {"predicted": seen.predicted_inter_token_s, "observed": seen.observed_inter_token_s}
            for kind, time_s in times.items():
                if time_s is not None:
                    latency.add_metric((model, kind), time_s)
            up.add_metric((model, seen.state), 1)
        yield reserved
        yield latency
        yield up
        waiting = GaugeMetricFamily("bunkhouse_chats_waiting", "Chats in a tenant's waiting room.", labels=("tenant",))
        by_tenant = self.snapshot.waiting_per_tenant
        for tenant, count in by_tenant.items() if self._per_tenant else [("", sum(by_tenant.values()))]:
            waiting.add_metric((tenant,), count)
        yield waiting
        drift = GaugeMetricFamily(
            "bunkhouse_device_drift_bytes", "Memory of a device that other programs use.", labels=("device",)
        )
        in_space = GaugeMetricFamily(
            "bunkhouse_device_in_space",
            "1 where all engines of a device run side by side (CUDA MPS), 0 where they take turns.",
            labels=("device",),
        )
        for device, there in self.snapshot.devices.items():
            in_space.add_metric((device,), there.sharing == Sharing.SPACE)
            if there.drift_bytes is not None:
                drift.add_metric((device,), there.drift_bytes)
        yield drift
        yield in_space
