"""What a model's own description says about its memory: weights, and KV values a token.

`bytes a token = sum over layers of KV heads x (head dim K + head dim V), x bytes a value`. A model with
sliding-window layers needs less than that; the formula is an upper bound for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes read from a GGUF header or a config.json; nothing is loaded for it."""

    architecture: str
    layers: int
    kv_values_per_token: int  # keys and values, over all layers
    context_tokens: int  # what the model was trained for
    weight_bytes: int
    vocabulary: int
    kv_heads: int = 0  # of each layer, and
    head_dim: int = 0  # of keys and of values; 0 where layers, or keys and values, differ
    hidden: int = 0  # channels between layers, and
    intermediate: int = 0  # inside the feed-forward part; 0 where the file does not say
    quantization: str | None = None  # "q4_1", "awq", ...; None: 16-bit weights

    def kv_bytes_per_token(self, bytes_per_value: Fraction) -> int:
        """KV bytes of one token, rounded up."""
        return -(-self.kv_values_per_token * bytes_per_value.numerator // bytes_per_value.denominator)
