"""How much of a session's earlier turn an engine still has in its prefix cache, per model.

    hit rate <- hit rate + 0.1 x (cached tokens / tokens of the earlier turn - hit rate),   at each settlement

A turn's prompt work is expected to be its prompt less hit rate x the earlier turn. Starts at 0: until a hit was seen,
prompts count in full (fails closed).
"""

from __future__ import annotations

_SMOOTHING = 0.1


class Hits:
    """Smoothed hit rates."""

    def __init__(self) -> None:
        self.rate: dict[str, float] = {}

    def expected(self, model: str, tokens: int) -> int:
        """Tokens of `tokens` seen before that will not have to be read again."""
        return int(self.rate.get(model, 0.0) * tokens)

    def settled(self, model: str, tokens: int, cached_tokens: int) -> None:
        """Of `tokens` seen before, more than none, the engine had `cached_tokens`."""
        before = self.rate.get(model, 0.0)
        self.rate[model] = before + _SMOOTHING * (min(1.0, cached_tokens / tokens) - before)
