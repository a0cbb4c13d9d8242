"""The model that is measured, and its engines: at a chosen precision and size, or one that changes its precision."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from services.config.schema import Config, ConfigError, ModelConfig
from services.contracts.chats import KvBits
from services.contracts.engine_kinds import Pool
from services.contracts.engines import EngineFacts
from services.engines.base import Engine
from services.engines.factory import build_engine
from services.model_files.shape import ModelShape
from services.model_files.weights import resolve
from services.planner.need import Need, need_of
from services.planner.plan import shape_in
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class Subject:
    """One model of a configuration."""

    name: str
    settings: ModelConfig
    weights: Path
    shape: ModelShape
    tokenizer: Tokenizer
    folder: Path  # for engines' logs

    def with_planes(self, bits: int) -> bool:
        """Whether this precision takes another engine than 16 bits do: SGLang's KV planes hold 8 and 4."""
        return self.settings.kind.kv_planes and bits < 16

    def engine(self, bits: int, chats: int | None = None, name: str | None = None) -> Engine:
        """An engine that is not started. `chats` None: as configured. Raises ConfigError.

        A pool that would take the rest of the device is set to hold all chats at full context, so that it is no larger
        than what is counted for it.
        """
        slots = chats or self.settings.chats_max
        changes = {
            "kv_bits": "mixed" if self.with_planes(bits) else bits,
            "chats_max": slots,
            "kv_tokens": slots * self.settings.context_tokens if self.settings.kind.pool is Pool.REMAINDER else None,
        }
        return build_engine(name or self.name, self.settings.model_copy(update=changes), self.weights, self.folder)

    @property
    def need(self) -> Need:
        """The planner's arithmetic for this model."""
        return need_of(self.name, self.settings, self.shape)


def subject_of(config: Config, name: str | None, folder: Path) -> Subject:
    """The model called `name`, or the first. Raises ConfigError, WeightsError, TokenizerError."""
    chosen = name or next(iter(config.models))
    if chosen not in config.models:
        raise ConfigError(f"model {chosen!r} is not under `models` (there are: {', '.join(config.models)})")
    settings = config.models[chosen]
    if settings.kv_bits == "mixed":
        settings = settings.model_copy(update={"kv_bits": 16})
    weights = resolve(settings.weights)
    return Subject(
        chosen, settings, weights, shape_in(weights), load_tokenizer(weights, settings.chat_template), folder
    )


@dataclass(frozen=True, slots=True)
class EngineAtBits:
    """A running engine at one precision. `change_s` None: it was started, not changed."""

    engine: Engine
    facts: EngineFacts
    change_s: float | None


class RunningEngine:
    """One engine at a time, changed to the precision asked for where that works, else replaced.

    Use `at` for every precision in turn, and `stop` at the end.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._engine: Engine | None = None
        self._planes = False

    async def at(self, bits: int) -> EngineAtBits:
        """The engine at `bits`. Raises EngineError and ConfigError."""
        planes = self._subject.with_planes(bits)
        if self._engine is not None and planes == self._planes:
            begun = time.perf_counter()
            facts = await self._engine.set_kv_bits(KvBits(bits), silent)
            return EngineAtBits(self._engine, facts, time.perf_counter() - begun)
        await self.stop()
        engine = self._engine = self._subject.engine(bits)
        self._planes = planes
        return EngineAtBits(engine, await engine.start(silent), None)

    async def stop(self) -> None:
        """End the engine, if one runs."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.stop()


def silent(_words: str) -> None:
    """A Progress that says nothing."""
