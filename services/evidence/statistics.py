"""Quantiles, intervals and fairness, for every figure that this project shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
Z = 1.96  # 95%

Interval = tuple[float, float, float]  # low, value, high


@dataclass(frozen=True, slots=True)
class Spread:
    """How a measure is spread. `count` 0: all None."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed. `ordered` is sorted, not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentile(values: Iterable[float], share: float) -> float:
    """The same of values in any order; nan where there is none."""
    ordered = sorted(values)
    return quantile(ordered, share) if ordered else math.nan


def spread(values: Iterable[float | None]) -> Spread:
    """The spread of the values that are not None."""
    ordered = sorted(v for v in values if v is not None)
    if not ordered:
        return Spread(0, None, None, None, None, None, None)
    points = (quantile(ordered, q) for q in QUANTILES)
    return Spread(len(ordered), sum(ordered) / len(ordered), *points)


def quantile_interval(values: Sequence[float], share: float) -> Interval | None:
    """A quantile's 95% interval by binomial order statistics. None: too few values for it."""
    ordered = sorted(values)
    n = len(ordered)
    half = Z * math.sqrt(n * share * (1 - share))
    low, high = math.floor(n * share - half) - 1, math.ceil(n * share + half)
    if n == 0 or low < 0 or high >= n:
        return None
    return ordered[low], quantile(ordered, share), ordered[high]


def share_interval(hits: int, total: int) -> Interval | None:
    """A share's 95% interval after Wilson. None: nothing was counted."""
    if total == 0:
        return None
    share = hits / total
    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z / (1 + Z * Z / total) * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    return centre - half, share, centre + half


def jain(values: Sequence[float]) -> float | None:
    """Jain's fairness index (sum x)^2 / (n sum x^2). None: nothing was served."""
    squares = sum(v * v for v in values)
    return None if not squares else sum(values) ** 2 / (len(values) * squares)
