"""Reads what a plan looks at: the models' own files once, the rest from Redis each time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache

import structlog

from services.config.schema import Config, ConfigError
from services.devices.card import Card, bandwidths, card, device_of, devices
from services.model_files.shape import ModelShape
from services.model_files.weights import WeightsError
from services.planner.kv_change import PlanInputs
from services.planner.need import KvBitsImpossible, Need, need_of
from services.planner.plan import read_shape
from services.store.bandwidth import read_measured
from services.store.connection import Connection
from services.store.registry_edit import read_registry
from services.store.submission import SubmissionClient

log = structlog.get_logger()


@cache
def _shape(weights: str) -> ModelShape:
    return read_shape(weights)


def needs_beside(config: Config, model: str, reported: Mapping[str, str] | None = None) -> dict[str, Need]:
    """What each model on the same device takes, but of those that cannot run as configured. `reported`: the device of
    each engine that runs. Reads files.

    Raises WeightsError, and ConfigError where `model` itself cannot run as configured.
    """
    on = {name: (reported or {}).get(name) or device_of(settings) for name, settings in config.models.items()}
    needs = {}
    for name, settings in config.models.items():
        if on[name] != on[model]:
            continue
        try:
            needs[name] = need_of(name, settings, _shape(settings.weights))
        except KvBitsImpossible:
            if name == model:
                raise
    return needs


def card_of(config: Config, device: str, used: Sequence[str] | None = None) -> Card | None:
    """The device's memory, or None where nobody knows its size."""
    try:
        return card(config, device, used)
    except ConfigError as error:
        log.warning("card.unknown", why=str(error))
        return None


async def scene(config: Config, connection: Connection, model: str) -> PlanInputs:
    """The scene of a plan for `model`. Raises ConfigError, WeightsError, QueueUnavailable, KeyError (no such model)."""
    store = SubmissionClient(connection)
    seen, snapshot = await store.engines(), await store.snapshot()
    reported = {name: engine.facts.device for name, engine in seen.items()}
    needs = await asyncio.to_thread(needs_beside, config, model, reported)
    device, used = reported.get(model) or device_of(config.models[model]), devices(config, reported)
    memory = await asyncio.to_thread(card_of, config, device, used)
    measured = bandwidths(config, await read_measured(connection), used)
    return PlanInputs(
        needs=needs,
        engines={name: seen[name] for name in needs if name in seen},
        registry=await read_registry(connection),
        room_bytes=None if memory is None else memory.total_bytes - int(memory.total_bytes * config.memory.reserve),
        bandwidth_bytes_per_s=measured.get(device),
        accounts=snapshot.models if snapshot else {},
    )


__all__ = ["ConfigError", "WeightsError", "card_of", "needs_beside", "scene"]
