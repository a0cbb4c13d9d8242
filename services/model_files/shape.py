"""What a model's own description says about its memory: weights, and what its layers keep of a chat.

A layer keeps one of three things. Full attention keeps keys and values of every token, a sliding window those of the
last tokens, and a linear layer (gated delta net, Mamba) a state of one size:

    bytes a token = sum over full layers of KV heads x (head dim K + head dim V), x bytes a value
    bytes a chat  = the same over window layers x tokens of the window + states
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of a mixture: a token is computed by `used` of `count`. `bytes` are all experts' weights."""

    count: int
    used: int
    bytes: int

    @property
    def part(self) -> float:
        """Of the experts that one token is computed by."""
        return self.used / self.count


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes read from a GGUF header or a config.json; nothing is loaded for it."""

    architecture: str
    layers: int
    kv_values_per_token: int  # keys and values, over all layers that keep every token
    context_tokens: int  # what the model was trained for
    weight_bytes: int
    vocabulary: int
    kv_heads: int = 0  # of each layer, and
    head_dim: int = 0  # of keys and of values; 0 where layers, or keys and values, differ
    hidden: int = 0  # channels between layers, and
    intermediate: int = 0  # inside the feed-forward part; 0 where the file does not say
    quantization: str | None = None  # "q4_1", "awq", ...; None: 16-bit weights
    window_values_per_token: int = 0  # keys and values, over all layers that keep a sliding window
    window_tokens: int = 0
    state_bytes: int = 0  # of one chat, over all layers that keep a state: 16-bit convolutions, 32-bit states
    latent: bool = False  # one compressed vector stands for all heads' keys and values (MLA)
    experts: Experts | None = None  # None: each token is computed by all weights

    def kv_bytes_per_token(self, bytes_per_value: Fraction, window_part: Fraction = Fraction(0)) -> int:
        """KV bytes of one token, rounded up. `window_part`: so much of a token of window layers counts, too."""
        size = (self.kv_values_per_token + window_part * self.window_values_per_token) * bytes_per_value
        return -(-size.numerator // size.denominator)

    @property
    def unlike_attention(self) -> str:
        """What its layers keep beside keys and values of every token, in words; "" where that is all."""
        kinds = {
            "sliding windows": self.window_values_per_token > 0,
            "linear or state-space layers": self.state_bytes > 0,
            "latent attention (MLA)": self.latent,
        }
        return " and ".join(kind for kind, found in kinds.items() if found)
