"""Reads what a plan looks at: the models' own files once, the rest from Redis each time."""

from __future__ import annotations

import asyncio
from functools import cache

import structlog

from services.config.schema import Config, ConfigError
from services.devices.card import Card, DeviceKind, cards, place_of
from services.model_files.shape import ModelShape
from services.model_files.weights import WeightsError
from services.planner.kv_change import PlanInputs
from services.planner.need import Need, need_of
from services.planner.plan import read_shape
from services.store.bandwidth import read_measured
from services.store.connection import Connection
from services.store.submission import SubmissionClient, read_registry

log = structlog.get_logger()


@cache
def _shape(weights: str) -> ModelShape:
    return read_shape(weights)


def needs_beside(config: Config, model: str) -> dict[str, Need]:
    """What each model on the same card takes. Reads files. Raises ConfigError, WeightsError."""
    place = place_of(config.models[model])
    return {
        name: need_of(name, settings, _shape(settings.weights))
        for name, settings in config.models.items()
        if place_of(settings) is place
    }


def card_of(config: Config, model: str) -> Card | None:
    """The model's card, or None where nobody knows its size."""
    try:
        return cards(config)[place_of(config.models[model])]
    except ConfigError as error:
        log.warning("card.unknown", why=str(error))
        return None


async def scene(config: Config, connection: Connection, model: str) -> PlanInputs:
    """The scene of a plan for `model`. Raises ConfigError, WeightsError, QueueUnavailable, KeyError (no such model)."""
    needs = await asyncio.to_thread(needs_beside, config, model)
    card = await asyncio.to_thread(card_of, config, model)
    measured = await read_measured(connection) if place_of(config.models[model]) is DeviceKind.GPU else None
    store = SubmissionClient(connection)
    seen, snapshot = await store.engines(), await store.snapshot()
    return PlanInputs(
        needs=needs,
        engines={name: seen[name] for name in needs if name in seen},
        registry=await read_registry(connection),
        room_bytes=None if card is None else card.total_bytes - int(card.total_bytes * config.memory.reserve),
        bandwidth_bytes_per_s=config.memory.bandwidth_bytes_per_s or measured,
        accounts=snapshot.models if snapshot else {},
    )


__all__ = ["ConfigError", "WeightsError", "card_of", "needs_beside", "scene"]
