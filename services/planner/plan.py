"""All models of a host on their cards: what fits, what is missing, and what would fit instead.

    budget = card - reserve x card
    left   = budget - sum of weights, overheads, windows and states - sum of pools of a set size
    a pool without a set size gets an equal share of what is left, whole tokens of it

A plan fits when nothing is missing: every model's weights, overhead and pool, or at least one whole chat where the pool
takes what is left. Fails closed: a configuration that does not fit is not started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from services.config.schema import Config, ConfigError, ModelConfig
from services.contracts.engine_kinds import Pool
from services.devices.card import Card, cards, device_of
from services.model_files.gguf import GgufError, read_gguf
from services.model_files.known_shapes import known_shapes
from services.model_files.model_config import ModelConfigError, read_model_config
from services.model_files.shape import ModelShape
from services.model_files.weights import WeightsError, resolve
from services.planner.need import BITS, KvBitsImpossible, Need, need_of, with_kv_bits

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Placed:
    """One model with its pool as planned. Bytes."""

    need: Need
    kv_bits: int
    pool_tokens: int

    @property
    def kv_bytes(self) -> int:
        """The pool, and windows and states of all chats."""
        return self.pool_tokens * self.need.per_token[self.kv_bits] + self.need.chats_bytes(self.kv_bits)

    @property
    def total_bytes(self) -> int:
        return self.need.fixed_bytes + self.kv_bytes

    @property
    def chats(self) -> int:
        """Chats of full context that the pool holds, at most as many as the engine takes."""
        return min(self.need.chats_max, self.pool_tokens // self.need.chat_tokens)


@dataclass(frozen=True, slots=True)
class PlannedAtBits:
    """The same card with all models at one number of KV bits."""

    bits: int
    needed_bytes: int
    missing_bytes: int
    pool_tokens: Mapping[str, int]  # by model; 0 where it does not fit


@dataclass(frozen=True, slots=True)
class CardPlan:
    """One card. Bytes."""

    card: Card
    reserve_bytes: int
    models: tuple[Placed, ...]
    missing_bytes: int
    at_bits: tuple[PlannedAtBits, ...]

    @property
    def budget_bytes(self) -> int:
        return self.card.total_bytes - self.reserve_bytes

    @property
    def free_bytes(self) -> int:
        return max(0, self.budget_bytes - sum(model.total_bytes for model in self.models))

    @property
    def fits(self) -> bool:
        return self.missing_bytes == 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A host's cards. `left_out`: models that cannot run as configured, with the reason; the others are planned."""

    cards: tuple[CardPlan, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return all(card.fits for card in self.cards)

    @property
    def notes(self) -> list[str]:
        """What the operator should know of models that are served."""
        return [placed.need.note for card in self.cards for placed in card.models if placed.need.note]

    def model(self, name: str) -> Placed:
        """One model's part. Raises KeyError."""
        for card in self.cards:
            for placed in card.models:
                if placed.need.model == name:
                    return placed
        raise KeyError(name)


def plan(config: Config, shape_of: Callable[[str], ModelShape] | None = None) -> Plan:
    """Plan a configuration. `shape_of` reads a model's shape from its `weights` (None: from disk).

    Raises WeightsError, and ConfigError, also where no model can run as configured.
    """
    read = shape_of or read_shape
    needs: dict[str, Need] = {}
    left_out: dict[str, str] = {}
    for name, model in config.models.items():
        try:
            needs[name] = need_of(name, model, read(model.weights))
        except KvBitsImpossible as error:
            left_out[name] = str(error)
    if left_out and not needs:
        raise ConfigError("\n".join(left_out.values()))
    planned = []
    for device, card in cards(config).items():
        here = [need for name, need in needs.items() if device_of(config.models[name]) == device]
        planned.append(plan_card(card, config.memory.reserve, here))
    return Plan(tuple(planned), left_out)


def settled(config: Config, model: str) -> ModelConfig:
    """A model's settings; KV bits and pool are chosen where the file leaves them to the host.

    Raises ConfigError, WeightsError.
    """
    settings = config.models[model]
    settings, note = with_kv_bits(model, settings, read_shape(settings.weights))
    if note:
        log.warning("model.kv_bits", model=model, why=note)
    if settings.kv_tokens is not None or settings.kind.pool is Pool.PER_CHAT:
        return settings
    return settings.model_copy(update={"kv_tokens": plan(config).model(model).pool_tokens})


def plan_card(card: Card, reserve: float, needs: Sequence[Need]) -> CardPlan:
    """Lay models out on one card. `reserve` is the part of it that stays free."""
    reserve_bytes = int(card.total_bytes * reserve)
    budget = card.total_bytes - reserve_bytes
    bits = {need.model: need.kv_bits for need in needs}
    missing = _missing(budget, needs, bits)
    pools = _pools(budget, needs, bits)
    return CardPlan(
        card=card,
        reserve_bytes=reserve_bytes,
        models=tuple(Placed(need, need.kv_bits, pools[need.model]) for need in needs),
        missing_bytes=missing,
        at_bits=tuple(_at_bits(budget, needs, number) for number in BITS),
    )


def read_shape(weights: str) -> ModelShape:
    """A model's shape from its own files. Raises ConfigError, WeightsError."""
    return shape_in(resolve(weights, description_only=True))


def planned_shape(weights: str) -> ModelShape:
    """The same for a plan alone: a hub that is not reached does not matter for the models of the examples.

    Raises ConfigError, WeightsError.
    """
    try:
        return read_shape(weights)
    except WeightsError:
        if (known := known_shapes().get(weights)) is None:
            raise
        return known


def shape_in(path: Path) -> ModelShape:
    """The shape that a GGUF file or a model folder describes. Raises ConfigError."""
    try:
        return read_model_config(path) if path.is_dir() else read_gguf(path).shape()
    except (GgufError, ModelConfigError) as error:
        raise ConfigError(str(error)) from error


def _missing(budget: int, needs: Sequence[Need], bits: Mapping[str, int]) -> int:
    return max(0, sum(need.bytes_min(bits[need.model]) for need in needs) - budget)


def _pools(budget: int, needs: Sequence[Need], bits: Mapping[str, int]) -> dict[str, int]:
    """Tokens of each model's pool; the smallest useful one where the card is too small anyway."""
    pools = {need.model: need.tokens_min(bits[need.model]) for need in needs}
    left = budget - sum(need.bytes_min(bits[need.model]) for need in needs)
    greedy = [need for need in needs if need.pool_tokens is None]
    if left > 0 and greedy:
        # One chat's tokens are in already; so models of different context still end with equal shares.
        left += sum(_floor(need, bits) for need in greedy)
        for need, share in zip(greedy, _equal_shares(left, greedy, bits), strict=True):
            pools[need.model] = share // need.per_token[bits[need.model]]
    return pools


def _floor(need: Need, bits: Mapping[str, int]) -> int:
    """Bytes of the smallest useful pool."""
    number = bits[need.model]
    return need.tokens_min(number) * need.per_token[number]


def _equal_shares(left: int, greedy: Sequence[Need], bits: Mapping[str, int]) -> list[int]:
    """Equal bytes for each, but for those that need more for one chat: they get that."""
    floors = [_floor(need, bits) for need in greedy]
    shares = list(floors)
    open_ = sorted(range(len(greedy)), key=lambda place: floors[place], reverse=True)
    while open_:
        equal = left // len(open_)
        if floors[open_[0]] <= equal:
            for place in open_:
                shares[place] = equal
            return shares
        left -= floors[open_.pop(0)]
    return shares


def _at_bits(budget: int, needs: Sequence[Need], number: int) -> PlannedAtBits:
    bits = {need.model: number for need in needs}
    missing = _missing(budget, needs, bits)
    pools = _pools(budget, needs, bits) if missing == 0 else {need.model: 0 for need in needs}
    return PlannedAtBits(number, sum(need.bytes_min(number) for need in needs), missing, pools)
