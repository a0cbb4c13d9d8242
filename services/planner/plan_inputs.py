"""Reads what a plan looks at: the models' own files once, the rest from Redis each time."""

from __future__ import annotations

import asyncio
from functools import cache

import structlog

from services.config.schema import Config, ConfigError
from services.devices.card import Card, bandwidths, card, device_of
from services.model_files.shape import ModelShape
from services.model_files.weights import WeightsError
from services.planner.kv_change import PlanInputs
from services.planner.need import Need, need_of
from services.planner.plan import read_shape
from services.store.bandwidth import read_measured
from services.store.connection import Connection
from services.store.registry_edit import read_registry
from services.store.submission import SubmissionClient

log = structlog.get_logger()


@cache
def _shape(weights: str) -> ModelShape:
    return read_shape(weights)


def needs_beside(config: Config, model: str) -> dict[str, Need]:
    """What each model on the same device takes. Reads files. Raises ConfigError, WeightsError."""
    device = device_of(config.models[model])
    return {
        name: need_of(name, settings, _shape(settings.weights))
        for name, settings in config.models.items()
        if device_of(settings) == device
    }


def card_of(config: Config, device: str) -> Card | None:
    """The device's memory, or None where nobody knows its size."""
    try:
        return card(config, device)
    except ConfigError as error:
        log.warning("card.unknown", why=str(error))
        return None


async def scene(config: Config, connection: Connection, model: str) -> PlanInputs:
    """The scene of a plan for `model`. Raises ConfigError, WeightsError, QueueUnavailable, KeyError (no such model)."""
    needs = await asyncio.to_thread(needs_beside, config, model)
    device = device_of(config.models[model])
    memory = await asyncio.to_thread(card_of, config, device)
    measured = bandwidths(config, await read_measured(connection))
    store = SubmissionClient(connection)
    seen, snapshot = await store.engines(), await store.snapshot()
    return PlanInputs(
        needs=needs,
        engines={name: seen[name] for name in needs if name in seen},
        registry=await read_registry(connection),
        room_bytes=None if memory is None else memory.total_bytes - int(memory.total_bytes * config.memory.reserve),
        bandwidth_bytes_per_s=measured.get(device),
        accounts=snapshot.models if snapshot else {},
    )


__all__ = ["ConfigError", "WeightsError", "card_of", "needs_beside", "scene"]
