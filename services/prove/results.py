"""Everything that one run of `prove` measured, as plain values that JSON takes.

Sizes are bytes, times seconds, shares 0..1. None: not measured; `notes` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .capacity import Capacity
from .memory import Held, Sizes


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured. The defaults take 8 to 12 minutes on two cores with a small model."""

    questions: int = 200
    questions_s_max: float = 120.0  # at 16 bits; the other precisions get as many questions as were reached then
    positions: int = 400
    positions_s_max: float = 60.0  # likewise
    text_tokens: int = 448  # each text of the perplexity; its second half is measured
    style_prompts: int = 12
    style_tokens: int = 48
    rounds: int = 2  # of decoding speed, each through all precisions
    decode_tokens: int = 64
    fill: float = 0.75  # of the context, before decoding speed is measured
    trial_s: float = 5.0  # of one capacity trial
    trial_tokens: int = 24
    models_max: int = 12
    sessions_max: int = 64

    @classmethod
    def quick(cls) -> Settings:
        """About a fifth of the work: for a first look."""
        return cls(
            questions=40,
            questions_s_max=25,
            positions=100,
            positions_s_max=15,
            style_prompts=6,
            style_tokens=32,
            rounds=1,
            decode_tokens=32,
            trial_s=2.5,
            models_max=6,
            sessions_max=24,
        )


@dataclass(frozen=True, slots=True)
class LatencyTargets:
    """When a chat counts as good in a capacity trial; a number holds when 95% of its chats are good."""

    first_token_s: float = 5.0
    inter_token_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Share:
    """A share of yes answers."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near the engine's predictions stay to those at 16 bits."""

    positions: int
    perplexity: float
    kl_nats: float
    top1_agrees: float


@dataclass(slots=True)
class AtBits:
    """One precision."""

    bits: int
    unavailable: str | None = None  # why this engine cannot do it
    overhead_bytes: int | None = None
    held: Held | None = None
    decode_tokens_per_s: float | None = None
    first_token_s: float | None = None  # after the long prompt
    sessions: Capacity | None = None
    models: Capacity | None = None
    contention: float | None = None  # time between tokens with two models decoding, against one
    fidelity: Fidelity | None = None
    maths: Share | None = None
    logic: Share | None = None
    same_answers: Share | None = None  # word for word as at 16 bits
    style_distance: float | None = None  # from 16 bits
    change_s: float | None = None  # from another precision to this one


@dataclass(slots=True)
class Results:
    """One run."""

    model: str
    engine: str
    weights: str
    machine: str
    started: str
    card_bytes: int  # 0 until measured: what `card_models` take at 16 bits
    card_models: int
    card_said: str  # where that size comes from
    reserve: float  # share of the card that stays free
    targets: LatencyTargets
    settings: Settings
    sizes: Sizes | None = None
    live_kv_bits: bool = False
    prompt_tokens: int = 0  # of the decoding speed
    style_yardstick: float | None = None  # 16 bits against 16 bits, other seeds
    at: dict[int, AtBits] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def ratio(self, name: str) -> float | None:
        """Four bits over sixteen of a `figure`. None: not measured."""
        sixteen, four = (self.figure(bits, name) for bits in (16, 4))
        return four / sixteen if sixteen and four is not None else None

    def figure(self, bits: int, name: str) -> float | None:
        """One figure at one precision; `name` is a key of FIGURES."""
        at = self.at.get(bits)
        return None if at is None else FIGURES[name](at)


FIGURES: dict[str, Callable[[AtBits], float | None]] = {
    "models": lambda at: at.held and at.held.models,
    "sessions": lambda at: at.held and at.held.sessions,
    "context": lambda at: at.held and at.held.context_tokens,
    "speed": lambda at: at.decode_tokens_per_s,
    "models_at_targets": lambda at: at.models and at.models.holds,
    "sessions_at_targets": lambda at: at.sessions and at.sessions.holds,
}
