"""Snapshots as a scheduler publishes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.contracts.snapshot import DeviceSnapshot, ModelSnapshot, Snapshot

MODEL = ModelSnapshot(
    model="m",
    device="gpu0",
    state="ready",
    stale=False,
    budget_bytes=100,
    reserved_bytes=0,
    reserved_by_bits={},
    used_bytes=0,
    cached_bytes=0,
    free_bytes=100,
    withheld_bytes=0,
    drift_bytes=0,
    running=0,
    chats_max=8,
    predicted_inter_token_s=None,
    observed_inter_token_s=None,
    correction=1.0,
    prefill_tokens_per_s=None,
    target_unattainable=False,
    waiting={},
    blocked={},
    service_rate_per_s=None,
    expected_wait_s=None,
)

DEVICE = DeviceSnapshot(
    device="gpu0",
    total_bytes=1000,
    used_bytes=100,
    drift_bytes=0,
    stale=False,
    bandwidth_bytes_per_s=None,
    prefill_backlog_s=0.0,
)


def snapshot(*models: ModelSnapshot, **changes: Any) -> Snapshot:
    """All of them at one time."""
    return replace(Snapshot(1.0, {model.model: model for model in models}, 0), **changes)
