"""Distance between answers: whether a reader could see a change of style.

Each set of answers becomes a profile of character trigrams; the distance is one minus the cosine of the two
profiles (0: the same, 1: nothing in common). Samples at one precision differ too, so the distance between two
sets at 16 bits with different seeds is the yardstick: a change of style is one that exceeds it clearly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable


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
