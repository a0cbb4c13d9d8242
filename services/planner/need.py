"""What one model takes on a card.

total = weights + overhead + chats x bytes a chat + pool tokens x KV bytes a token (bits)
KV bytes a token = layers x KV heads x (head dim K + head dim V) x bytes a value, scales included

Only layers of full attention count by token. Sliding windows and states take the same for each chat, however long it is
(services/model_files/shape.py); where an engine keeps windows in a pool, they count by token in its part of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from services.config.schema import ConfigError, ModelConfig
from services.contracts.engine_kinds import F16, Pool
from services.kvplanes.layout import PlaneShape
from services.model_files.shape import ModelShape

BITS = (16, 8, 4)


class KvBitsImpossible(ConfigError):
    """The file sets KV bits that the model's heads do not allow."""


@dataclass(frozen=True, slots=True)
class Need:
    """One model's memory in bytes. `pool_tokens` is None where the engine takes what is left of the card."""

    model: str
    engine: str
    weights: str
    weight_bytes: int
    overhead_bytes: int
    per_token: Mapping[int, int]  # KV bits -> bytes
    kv_bits: int  # of the pool's tokens; 4 with KV planes
    planes: bool  # KV planes: sessions at 4 and at 8 bits in one pool
    context_tokens: int  # of one chat
    chats_max: int
    pool_tokens: int | None
    note: str = ""  # what the operator should know of the choice of KV bits
    per_chat: Mapping[int, int] = field(default_factory=dict)  # KV bits -> bytes of windows and states; none: 0

    def chats_bytes(self, bits: int) -> int:
        """Windows and states of all chats."""
        return self.chats_max * self.per_chat.get(bits, 0)

    @property
    def fixed_bytes(self) -> int:
        """Weights and what comes with them at any KV bits."""
        return self.weight_bytes + self.overhead_bytes

    @property
    def chat_tokens(self) -> int:
        """The pool's tokens that one chat of full context takes, at 8 bits where there are planes."""
        return 2 * self.context_tokens if self.planes else self.context_tokens

    def tokens_min(self, bits: int) -> int:
        """A pool below it is of no use: it could not hold one chat."""
        if self.pool_tokens is not None:
            return self.pool_tokens
        return self.chat_tokens if bits == self.kv_bits else self.context_tokens

    def bytes_min(self, bits: int) -> int:
        """The least that the model can run with at these KV bits."""
        return self.fixed_bytes + self.chats_bytes(bits) + self.tokens_min(bits) * self.per_token[bits]


def need_of(name: str, model: ModelConfig, shape: ModelShape) -> Need:
    """What a model of this shape takes as configured. Raises KvBitsImpossible."""
    model, note = with_kv_bits(name, model, shape)
    context = min(model.context_tokens, shape.context_tokens)
    widths = value_bytes(model, shape)
    per_token = {bits: shape.kv_bytes_per_token(width, model.kind.window_part) for bits, width in widths.items()}
    per_chat = {
        bits: model.kind.chat_bytes(
            window_values=shape.window_values_per_token,
            window_tokens=shape.window_tokens,
            state_bytes=shape.state_bytes,
            context_tokens=model.context_tokens,
            bytes_per_value=width,
        )
        for bits, width in widths.items()
    }
    planes = model.kv_bits == "mixed"
    bits = 4 if model.kv_bits == "mixed" else model.kv_bits
    pool = model.kv_tokens
    if pool is None and model.kind.pool is Pool.PER_CHAT:
        pool = model.kind.context_tokens(model.context_tokens) * model.chats_max
    return Need(
        model=name,
        engine=model.engine,
        weights=model.weights,
        weight_bytes=shape.weight_bytes,
        overhead_bytes=model.kind.overhead[model.kind.device(model.device)].total_bytes(
            vocabulary=shape.vocabulary, hidden=shape.hidden, intermediate=shape.intermediate
        ),
        per_token=per_token,
        kv_bits=bits,
        planes=planes,
        context_tokens=context,
        chats_max=model.chats_max,
        pool_tokens=pool,
        note=note,
        per_chat=per_chat,
    )


def with_kv_bits(name: str, model: ModelConfig, shape: ModelShape) -> tuple[ModelConfig, str]:
    """The model with KV bits that it can hold, and what the operator should know of them ("" where nothing).

    Bits that the file does not set become 16 where the default needs heads of another size. Raises KvBitsImpossible
    where the file sets bits that the heads do not allow.
    """
    block = model.kind.block_values
    given = "kv_bits" in model.model_fields_set
    if model.kv_bits == "mixed":
        why = _no_planes(shape)
    else:
        odd = model.kv_bits < 16 and shape.head_dim % block
        why = f"{model.kind.title} holds heads in blocks of {block} values, and this model's have {shape.head_dim}"
        why = why if odd else ""
    if not why:
        return model, _risk(name, model, shape)
    if given:
        others = "8 or 16" if model.kind.kv_planes else "16"
        raise KvBitsImpossible(f"models.{name}: kv_bits: {model.kv_bits}: {why}; set kv_bits to {others}")
    return model.model_copy(update={"kv_bits": 16}), f"{name} holds KV at 16 bits: {why}"


def _risk(name: str, model: ModelConfig, shape: ModelShape) -> str:
    """What can go wrong at the model's KV bits, with a safer setting; "" where nothing is known."""
    if model.kv_bits == "mixed" or (risk := model.kind.kv_bits_risks.get(model.kv_bits)) is None:
        return ""
    planes = model.kind.kv_planes and model.kind.uses_gpu(model.device) and not _no_planes(shape)
    return f"{name} holds KV at {model.kv_bits} bits: {risk}; {'mixed or 16' if planes else '16'} is safe"


def _no_planes(shape: ModelShape) -> str:
    """Why KV planes cannot hold this model's cache; "" where they can."""
    if shape.unlike_attention:
        return f"KV planes hold full attention, and this model has {shape.unlike_attention}"
    if not shape.head_dim:
        return "KV planes need keys and values of one size in all layers"
    try:
        plane_bytes(shape)
    except ValueError as error:
        return str(error)
    return ""


def value_bytes(model: ModelConfig, shape: ModelShape) -> dict[int, Fraction]:
    """Bytes of one cached value at each precision that this engine can be started with. Where there are no 4 bits, they
    take as much as 8. `with_kv_bits` comes first."""
    widths = dict(model.kind.value_bytes)
    if not model.kind.kv_planes:
        return widths
    if _no_planes(shape):
        return {**widths, 4: widths[8]}
    plane = plane_bytes(shape)
    if model.kv_bits != "mixed":
        return {**widths, 4: plane}
    return {16: F16, 8: 2 * plane, 4: plane}


def plane_bytes(shape: ModelShape) -> Fraction:
    """One plane of a KV value: a nibble, and the scales of its token and head (services/kvplanes/layout.py)."""
    return Fraction(PlaneShape(1, 1, shape.head_dim).slot_bytes, 2 * shape.head_dim)
