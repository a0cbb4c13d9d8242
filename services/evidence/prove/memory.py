"""What a card's memory holds at each precision: arithmetic over one model's measured or planned sizes.

    fixed         = weights + overhead
    one model     = fixed + chats x context x KV bytes a token
    models held   = budget / one model
    sessions held = (budget - fixed) / (context x KV bytes a token)
    longest chat  = (budget - fixed) / KV bytes a token

budget = card less the reserve. Every model is counted with weights of its own, also where two processes map the
same file, because two customers' models are two files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """One model's memory in bytes; `per_token` by KV bits."""

    weight_bytes: int
    overhead_bytes: int
    per_token: Mapping[int, int]
    context_tokens: int
    chats: int

    @property
    def fixed_bytes(self) -> int:
        """Taken before the first token."""
        return self.weight_bytes + self.overhead_bytes

    def kv_bytes(self, bits: int) -> int:
        """KV memory for all its chats at full context."""
        return self.chats * self.context_tokens * self.per_token[bits]

    def model_bytes(self, bits: int) -> int:
        """The whole model with that KV memory."""
        return self.fixed_bytes + self.kv_bytes(bits)


@dataclass(frozen=True, slots=True)
class HeldTokens:
    """What fits at one precision. Tokens are by memory alone, whatever the model was trained for."""

    bits: int
    per_token_bytes: int
    kv_bytes: int
    model_bytes: int
    kv_share: float  # of one model's memory
    models: int
    sessions: int
    context_tokens: int


def held(sizes: Sizes, bits: int, budget_bytes: int) -> HeldTokens:
    """What `budget_bytes` holds at `bits`."""
    left = max(0, budget_bytes - sizes.fixed_bytes)
    per_token = sizes.per_token[bits]
    return HeldTokens(
        bits=bits,
        per_token_bytes=per_token,
        kv_bytes=sizes.kv_bytes(bits),
        model_bytes=sizes.model_bytes(bits),
        kv_share=sizes.kv_bytes(bits) / sizes.model_bytes(bits),
        models=budget_bytes // sizes.model_bytes(bits),
        sessions=left // (sizes.context_tokens * per_token),
        context_tokens=left // per_token,
    )


# The article's model: QwQ-32B's config.json says 64 layers, 8 KV heads of dimension 128 for keys and for values.
QWQ_KV_VALUES = 64 * 8 * (128 + 128)


def qwq_kv_bytes(tokens: int, bytes_a_value: float) -> float:
    """KV memory of QwQ-32B for `tokens` tokens."""
    return tokens * QWQ_KV_VALUES * bytes_a_value


def qwq_tokens_for_saving(saved_bytes: float, bytes_a_value: float) -> float:
    """The context at which going from 16 bits to `bytes_a_value` saves `saved_bytes`."""
    return saved_bytes / (QWQ_KV_VALUES * (2 - bytes_a_value))
