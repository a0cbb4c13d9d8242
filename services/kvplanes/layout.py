"""How many bytes a cached token takes. No torch here: the planner and the ledger import it.

One *slot* holds one nibble of every key and value channel of one token, in every layer, and the token's scales:

    slot = layers x KV heads x (head_dim/2 for K + head_dim/2 for V + 4 fp16 scales)

A token at 4 bits owns one slot, its high plane. A token at 8 bits owns two: the second holds the low nibbles (its
scale fields lie unused, which keeps all slots alike and lets memory move between "more tokens" and "more bits").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SCALES_PER_HEAD = 4  # key scale, key middle, value scale, value middle
SCALE_BYTES = 2  # fp16
BITS = (4, 8)


@dataclass(frozen=True, slots=True)
class PlaneShape:
    """What of a model decides the size of its KV cache.

    `layers` that hold a cache, `kv_heads` per layer and `head_dim` channels of a key and of a value.
    Raises ValueError for a head size that the kernels do not know.
    """

    layers: int
    kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if self.head_dim not in (64, 128, 256):
            raise ValueError(f"kvplanes knows head sizes 64, 128 and 256, not {self.head_dim}")
        if self.layers < 1 or self.kv_heads < 1:
            raise ValueError(f"layers and kv_heads must be positive: {self.layers}, {self.kv_heads}")

    @property
    def code_bytes(self) -> int:
        """Bytes of one plane's nibbles for one token, head and layer (K and V)."""
        return self.head_dim

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot over all layers and heads."""
        return self.layers * self.kv_heads * (self.code_bytes + SCALES_PER_HEAD * SCALE_BYTES)


def bytes_per_token(config: Mapping[str, int], bits: int) -> int:
    """Bytes of KV memory that one token takes at `bits` (4, 8, or 16 for SGLang's own bf16 cache).

    `config` has ``layers``, ``kv_heads`` and ``head_dim``. Raises ValueError for other bits, KeyError for a
    missing entry.
    """
    if bits == 16:
        return config["layers"] * config["kv_heads"] * config["head_dim"] * 2 * 2
    if bits not in BITS:
        raise ValueError(f"KV bits must be 4, 8 or 16, not {bits}")
    shape = PlaneShape(config["layers"], config["kv_heads"], config["head_dim"])
    return shape.slot_bytes * (bits // 4)
