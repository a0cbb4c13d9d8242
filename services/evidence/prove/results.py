"""Everything that one run of `prove` measured, as plain values that JSON takes.

Sizes are bytes, times seconds, shares 0..1. None: not measured; `notes` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .bisection import Capacity
from .memory import HeldTokens, Sizes


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured. What is over when `seconds_max` are over is left out, and the report says so."""

    seconds_max: float = 780.0
    questions: int = 200
    questions_s_max: float = 75.0  # at 16 bits; the other precisions get as many questions as were reached then
    reasoning_tokens_max: int = 512  # of a model that thinks, before each answer to a question or a sample of style
    positions: int = 400
    positions_s_max: float = 30.0  # likewise
    text_tokens: int = 448  # each text of the perplexity; its second half is measured
    style_prompts: int = 12
    style_tokens: int = 48
    bursts: int = 8  # of decoding speed, each round all precisions
    burst_tokens: int = 16
    fill: float = 0.5  # of the context, before decoding speed is measured
    trial_s: float = 5.0  # of one capacity trial
    trial_tokens: int = 24
    models_max: int = 12
    sessions_max: int = 64

    @classmethod
    def quick(cls) -> Settings:
        """About a fifth of the work: for a first look."""
        return cls(
            seconds_max=300,
            questions=40,
            questions_s_max=20,
            reasoning_tokens_max=128,
            positions=100,
            positions_s_max=8,
            style_prompts=6,
            style_tokens=32,
            bursts=4,
            burst_tokens=16,
            trial_s=2.5,
            models_max=6,
            sessions_max=16,
        )


@dataclass(frozen=True, slots=True)
class LatencyTargets:
    """When a chat counts as good in a capacity trial; a number holds when 95% of its chats are good."""

    first_token_s: float = 5.0
    inter_token_s: float = 0.25

    def chat_s(self, tokens: int) -> float:
        """The longest that a chat of so many tokens can take within both targets."""
        return self.first_token_s + tokens * self.inter_token_s


@dataclass(frozen=True, slots=True)
class Share:
    """A share of yes answers."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """What was said to one question, and the thoughts before it."""

    question: str  # its id
    content: str
    reasoning_content: str = ""
    reasoning_tokens: int = 0
    right: bool = False


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near the engine's predictions stay to those at 16 bits."""

    positions: int
    perplexity: float
    kl_nats: float
    top1_agrees: float


@dataclass(slots=True)
class MeasuredAtBits:
    """One precision."""

    bits: int
    unavailable: str | None = None  # why this engine cannot do it
    overhead_bytes: int | None = None
    held: HeldTokens | None = None
    decode_tokens_per_s: float | None = None
    first_token_s: float | None = None  # after the long prompt
    sessions: Capacity | None = None
    models: Capacity | None = None
    contention: float | None = None  # time between tokens with two models decoding, against one
    fidelity: Fidelity | None = None
    maths: Share | None = None
    logic: Share | None = None
    same_answers: Share | None = None  # word for word as at 16 bits
    answers: list[QuestionAnswer] = field(default_factory=list)
    reasoning_tokens: float | None = None  # of one question, on average; None: the model does not think
    style_distance: float | None = None  # from 16 bits
    change_s: float | None = None  # from another precision to this one


Figure = Callable[[MeasuredAtBits], float | None]


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
    style_yardstick: float | None = None  # largest distance among three samples at 16 bits
    foreign_cpu_share: float = 0.0  # of the cores, that other work took meanwhile
    at: dict[int, MeasuredAtBits] = field(default_factory=dict)
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


def _held(name: str) -> Figure:
    return lambda at: None if at.held is None else getattr(at.held, name)


FIGURES: dict[str, Figure] = {
    "models": _held("models"),
    "sessions": _held("sessions"),
    "context": _held("context_tokens"),
    "speed": lambda at: at.decode_tokens_per_s,
    "models_at_targets": lambda at: None if at.models is None else at.models.holds,
    "sessions_at_targets": lambda at: None if at.sessions is None else at.sessions.holds,
}
