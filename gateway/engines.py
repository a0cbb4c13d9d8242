"""What the engines can do now, read from Redis about once a second: KV bits, context, and how full they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from services.config.schema import ModelConfig
from services.contracts.engines import EngineFacts
from services.contracts.snapshot import ModelSnapshot
from services.store.connection import QueueUnavailable
from services.store.submission import SubmissionClient

LOOK_S = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EngineNow:
    """One model as the gateway sees it. `bits_available` holds one value where sessions cannot differ."""

    bits_available: tuple[int, ...]  # up to those that an operator set for the model
    live: bool  # sessions may differ in bits
    context_tokens: int
    pressure: float = 0.0  # part of the KV memory that is reserved, 0..1
    bytes_per_token: Mapping[int, int] = field(default_factory=dict)  # by KV bits; empty until its engine was heard of


class Engines:
    """All models: as configured until their engines were heard of, kept fresh by `watch`."""

    def __init__(self, door: SubmissionClient, models: Mapping[str, ModelConfig]) -> None:
        self._door = door
        self._now = {name: _as_configured(model) for name, model in models.items()}

    def get(self, model: str) -> EngineNow | None:
        """The model now; None where this host has none of that name."""
        return self._now.get(model)

    async def look(self) -> None:
        """Read once. What cannot be read stays as it was last seen. Raises QueueUnavailable."""
        snapshot = await self._door.snapshot()
        for model, seen in (await self._door.engines()).items():
            if model in self._now:
                account = snapshot.models.get(model) if snapshot else None
                pressure = self._now[model].pressure if account is None else _pressure(account)
                self._now[model] = engine_now(seen.facts, pressure)

    async def watch(self) -> None:
        """Look until cancelled. What was last seen counts on while Redis is away."""
        while True:
            try:
                await self.look()
            except QueueUnavailable as error:
                log.warning("engines.unavailable", why=str(error))
            await asyncio.sleep(LOOK_S)


def _as_configured(model: ModelConfig) -> EngineNow:
    if model.kv_bits == "mixed":
        return EngineNow((4, 8), True, model.context_tokens)
    return EngineNow((model.kv_bits,), False, model.context_tokens)


def engine_now(facts: EngineFacts, pressure: float = 0.0) -> EngineNow:
    """As the engine describes itself."""
    live, most = facts.live_kv_bits, int(facts.kv_bits)
    bits = tuple(sorted(bits for bits in facts.kv_bytes_per_token if bits <= most)) if live else (most,)
    return EngineNow(bits, live, facts.context_tokens, pressure, facts.kv_bytes_per_token)


def _pressure(account: ModelSnapshot) -> float:
    return min(1.0, account.reserved_bytes / account.budget_bytes) if account.budget_bytes else 0.0
