"""When sessions come in an open loop: an inhomogeneous Poisson process, drawn by thinning.

`rate(t)` is sessions a second at `t` seconds into the run. Candidates come at the peak rate and each is kept
with probability rate(t) / peak (Lewis and Shedler, 1979).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from services.contracts.scenario import Bursty, Diurnal, Poisson

Open = Poisson | Bursty | Diurnal


def rate(arrivals: Open, at_s: float) -> float:
    """Sessions a second at `at_s`."""
    match arrivals:
        case Poisson():
            return arrivals.sessions_per_s
        case Bursty():
            bursting = at_s % arrivals.every_s < arrivals.burst_s
            return arrivals.burst_sessions_per_s if bursting else arrivals.sessions_per_s
        case Diurnal():
            swing = (1 - math.cos(2 * math.pi * at_s / arrivals.period_s)) / 2
            low, high = arrivals.low_sessions_per_s, arrivals.high_sessions_per_s
            return low + (high - low) * swing


def peak(arrivals: Open) -> float:
    """The highest rate that `rate` returns."""
    match arrivals:
        case Poisson():
            return arrivals.sessions_per_s
        case Bursty():
            return max(arrivals.sessions_per_s, arrivals.burst_sessions_per_s)
        case Diurnal():
            return max(arrivals.low_sessions_per_s, arrivals.high_sessions_per_s)


def arrival_times(arrivals: Open, duration_s: float, rng: random.Random) -> Iterator[float]:
    """Rising start times in [0, duration_s)."""
    highest = peak(arrivals)
    if highest <= 0:
        return
    at = 0.0
    while (at := at + rng.expovariate(highest)) < duration_s:
        if rng.random() * highest < rate(arrivals, at):
            yield at
