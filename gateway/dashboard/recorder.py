"""The last minutes of this host, for the charts: sampled from the scheduler's snapshot and this gateway's metrics.

Kept in memory, in each gateway process. Missing samples are gaps in the charts, not zeros.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from gateway.metrics import Metrics
from services.contracts.snapshot import Snapshot
from services.store.connection import QueueUnavailable
from services.store.submission import SubmissionClient

SAMPLE_S = 2.0
SAMPLES_MAX = 300  # ten minutes
FIRST_TOKEN_WINDOW = 15  # samples that one first-token figure looks back over


@dataclass(frozen=True, slots=True)
class HostSample:
    """One moment. Seconds and bytes; None where nothing was known."""

    at_s: float
    inter_token_s: dict[str, float | None] = field(default_factory=dict)  # by model
    kv_bytes: dict[str, int] = field(default_factory=dict)  # reserved, by model
    first_token_s: float | None = None  # median over the last half minute
    waiting: int | None = None


class HostSeries(TypedDict):
    """Samples as the charts' columns. None: a gap."""

    at_s: list[float]
    inter_token_ms: dict[str, list[float | None]]  # by model
    first_token_ms: list[float | None]
    waiting: list[int | None]


class Recorder:
    """`run` samples until cancelled."""

    def __init__(self, submissions: SubmissionClient, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._submissions = submissions
        self._metrics = metrics
        self._clock = clock
        self._counts: deque[dict[float, float]] = deque(maxlen=FIRST_TOKEN_WINDOW)
        self.samples: deque[HostSample] = deque(maxlen=SAMPLES_MAX)

    async def run(self) -> None:
        """Sample every SAMPLE_S."""
        while True:
            self.samples.append(await self._now())
            await asyncio.sleep(SAMPLE_S)

    async def _now(self) -> HostSample:
        """What is known now. A snapshot that is not whole, as of a scheduler of another version, is a gap, too."""
        try:
            snapshot = await self._submissions.snapshot()
        except QueueUnavailable:
            snapshot = None
        return HostSample(self._clock()) if snapshot is None or snapshot.unread else self._sample(snapshot)

    def _sample(self, snapshot: Snapshot) -> HostSample:
        models = snapshot.models
        self._counts.append(buckets(self._metrics))
        return HostSample(
            at_s=self._clock(),
            inter_token_s={
                name: model.observed_inter_token_s if model.running else None for name, model in models.items()
            },
            kv_bytes={name: model.reserved_bytes for name, model in models.items()},
            first_token_s=median(self._counts[0], self._counts[-1]),
            waiting=snapshot.waiting,
        )

    def series(self, after_s: float) -> HostSeries:
        """Samples newer than `after_s`, as columns."""
        kept = [sample for sample in self.samples if sample.at_s > after_s]
        names = sorted({name for sample in self.samples for name in sample.inter_token_s})
        return {
            "at_s": [sample.at_s for sample in kept],
            "inter_token_ms": {name: [_ms(sample.inter_token_s.get(name)) for sample in kept] for name in names},
            "first_token_ms": [_ms(sample.first_token_s) for sample in kept],
            "waiting": [sample.waiting for sample in kept],
        }


def buckets(metrics: Metrics) -> dict[float, float]:
    """Cumulative counts of first tokens by upper bound in seconds, over all bots."""
    found: dict[float, float] = {}
    for family in metrics.first_token.collect():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                bound = float(sample.labels["le"])
                found[bound] = found.get(bound, 0.0) + sample.value
    return found


def median(before: dict[float, float], after: dict[float, float]) -> float | None:
    """Between two readings of cumulative buckets, linear within a bucket. None where nothing was counted."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    total = max(counts.values(), default=0.0)
    if not total:
        return None
    low, below = 0.0, 0.0
    for bound, count in counts.items():
        if count >= total / 2:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (total / 2 - below) / (count - below)
        low, below = bound, count
    return None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
