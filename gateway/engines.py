"""What the engines can do now, read from Redis about once a second: KV bits, context, and how full they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.config.schema import ModelConfig
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
        self._unread: set[str] = set()  # models of which it was said that they cannot be read

    def get(self, model: str) -> EngineNow | None:
        """The model now; None where this host has none of that name."""
        return self._now.get(model)

    async def look(self) -> None:
        """Read once. A model of which a scheduler or a worker of another version tells less stays as it was last seen.

        Raises QueueUnavailable.
        """
        snapshot = await self._door.snapshot() or {}
        for model, told in (await self._door.engines()).items():
            if model not in self._now:
                continue
            try:
                self._now[model] = _as_told(told["facts"], snapshot.get("models", {}).get(model, {}))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                if model not in self._unread:
                    log.warning("engines.not_read", model=model, why=repr(error))
                self._unread.add(model)
            else:
                self._unread.discard(model)

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


def _as_told(facts: Mapping[str, Any], seen: Mapping[str, Any]) -> EngineNow:
    live, most = bool(facts["live_kv_bits"]), int(facts["kv_bits"])
    per_token = {int(bits): int(size) for bits, size in facts["kv_bytes_per_token"].items()}
    bits = tuple(sorted(bits for bits in per_token if bits <= most)) if live else (most,)
    budget = seen.get("budget_bytes") or 0
    pressure = min(1.0, seen["reserved_bytes"] / budget) if budget else 0.0
    return EngineNow(bits, live, int(facts["context_tokens"]), pressure, per_token)
