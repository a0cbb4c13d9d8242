"""How far one next-token distribution is from another, from their likeliest tokens and the rest.

An engine lists the K likeliest tokens with natural-log probabilities. What is not listed is one more bucket, so
the divergence is that of coarsened distributions: never more than the true one (data processing inequality), and
near it when the bucket is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
