"""What KV bits cost where nobody has measured the model itself: SmolLM2-135M, the hardest case of the usual models.

4 x 1,024 tokens of licence text, int8 and int4 codes per token, head and group of 64 channels, against the 16-bit cache
(perplexity 21.243).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from services.model_files.weights import PACKAGE_PREFIX, WeightsError, resolve

MODEL = "SmolLM2-135M"
SOURCE = f"{MODEL}, not this model: measure it with a quality job"
SOURCE_OWN = f"{MODEL} on licence text"  # for the model that was measured
BASE_PERPLEXITY = 21.243


@dataclass(frozen=True, slots=True)
class Published:
    """One precision. Changes are parts: 0.174 is 17.4%."""

    bits: int
    perplexity: float
    perplexity_change: float
    kl: float
    top1_agrees: float
    source: str = SOURCE


def _row(bits: int, change: float, kl: float, top1: float) -> Published:
    return Published(bits, round(BASE_PERPLEXITY * (1 + change), 3), change, kl, top1)


TABLE = (_row(4, 0.174, 0.170, 0.772), _row(8, 0.0002, 0.0006, 0.985), _row(16, 0.0, 0.0, 1.0))


@cache
def published(weights: str) -> tuple[Published, ...]:
    """The table for a model with these `weights`, which a source names where they are its own."""
    return tuple(replace(row, source=SOURCE_OWN) for row in TABLE) if MODEL.lower() in _name(weights) else TABLE


def _name(weights: str) -> str:
    """A package is named by its file. No hub is asked."""
    try:
        return (resolve(weights).name if weights.startswith(PACKAGE_PREFIX) else weights).lower()
    except WeightsError:
        return weights.lower()
