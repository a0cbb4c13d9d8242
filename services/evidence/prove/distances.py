"""How far answers and predictions at one precision are from those at another; pure.

Predictions: an engine lists the K likeliest tokens with natural-log probabilities. What is not listed is one more
bucket, so the divergence is that of coarsened distributions: never more than the true one (data processing
inequality), and near it when the bucket is small.

Style: each set of answers becomes a profile of character trigrams; the distance is one minus the cosine of two
profiles (0: the same, 1: nothing in common). Samples at one precision differ too, so the distance between sets with
different seeds is the yardstick: a change of style clearly exceeds it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

Distribution = Mapping[int, float]  # token id -> natural log of its probability

TINY = 1e-12


def surprise(of: Distribution, token: int, vocabulary: int) -> float:
    """Minus log probability of `token` in nats. One that is not listed gets an equal share of the rest."""
    if token in of:
        return -of[token]
    rest = max(TINY, 1 - sum(math.exp(v) for v in of.values()))
    return -math.log(rest / max(1, vocabulary - len(of)))


def divergence(base: Distribution, other: Distribution) -> float:
    """KL(base || other) in nats over the tokens that both list, and the rest as one bucket."""
    common = base.keys() & other.keys()
    p_rest = max(TINY, 1 - sum(math.exp(base[t]) for t in common))
    q_rest = max(TINY, 1 - sum(math.exp(other[t]) for t in common))
    inside = sum(math.exp(base[t]) * (base[t] - other[t]) for t in common)
    return max(0.0, inside + p_rest * math.log(p_rest / q_rest))


def likeliest(of: Distribution) -> int:
    """The most likely token."""
    return max(of, key=lambda token: of[token])


def profile(texts: Iterable[str]) -> Counter[str]:
    """Trigram counts over all texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        tidy = " ".join(text.lower().split())
        counts.update(tidy[i : i + 3] for i in range(len(tidy) - 2))
    return counts


def distance(one: Iterable[str], two: Iterable[str]) -> float:
    """Distance in 0..1 between two sets of answers; 1 when one of them is empty."""
    a, b = profile(one), profile(two)
    norm = math.sqrt(sum(v * v for v in a.values())) * math.sqrt(sum(v * v for v in b.values()))
    if not norm:
        return 1.0
    return max(0.0, 1 - sum(v * b[k] for k, v in a.items()) / norm)
