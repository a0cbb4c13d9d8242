"""Models as the admin API shows them: configuration, what the engine says of itself, quality, who changes it now."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from gateway.admin.errors import NotFound
from gateway.admin.schemas import Model, Quality
from gateway.state import Gateway
from services.config.schema import ModelConfig
from services.devices.card import device_of
from services.planner.kv_change import bots_of, per_token, possible_bits
from services.planner.need import Need
from services.planner.plan_inputs import ConfigError, WeightsError, needs_beside
from services.planner.quality_table import published
from services.store.jobs import Jobs, lock_of_model
from services.store.quality import measured
from services.store.registry_edit import read_registry


def configured(gateway: Gateway, model: str) -> ModelConfig:
    """Raises NotFound."""
    found = gateway.config.models.get(model)
    if found is None:
        raise NotFound(f"There is no model {model!r}; there are {', '.join(gateway.config.models)}.", param="model")
    return found


async def models(gateway: Gateway) -> list[Model]:
    """All models, in the configuration's order. Raises QueueUnavailable."""
    seen, snapshot = await gateway.submissions.engines(), await gateway.submissions.snapshot()
    registry = await read_registry(gateway.connection)
    found = []
    for name, config in gateway.config.models.items():
        job = await Jobs(gateway.connection).holder(lock_of_model(name))
        account = snapshot.models.get(name) if snapshot else None
        engine, need = seen.get(name), await need_of_model(gateway, name)
        sized = engine.facts if engine else need
        found.append(
            Model(
                name=name,
                engine=config.engine,
                device=engine.facts.device if engine else device_of(config),
                state=engine.report.state.value if engine else "down",
                heard_s=engine.report.at_s if engine else None,
                kv_bits=int(engine.facts.kv_bits) if engine else None,
                kv_bits_live=bool(engine and engine.facts.live_kv_bits),
                context_tokens=engine.facts.context_tokens if engine else config.context_tokens,
                chats_max=engine.facts.chats_max if engine else config.chats_max,
                running=engine.report.running if engine else 0,
                waiting=sum(account.waiting.values()) if account else 0,
                job=job.id if job else None,
                quality=await quality_of(gateway, name),
                bots=list(bots_of(registry, name)),
                weight_bytes=sized.weight_bytes if sized else None,
                overhead_bytes=sized.overhead_bytes if sized else None,
                kv_budget_bytes=engine.facts.kv_budget_bytes if engine else None,
                kv_bits_possible=possible_bits(need, engine) if need else [],
                kv_bytes_per_token=per_token(need, engine) if need else {},
            )
        )
    return found


async def need_of_model(gateway: Gateway, model: str) -> Need | None:
    """What the model takes by its own files, or None where they cannot be read here."""
    try:
        return (await asyncio.to_thread(needs_beside, gateway.config, model))[model]
    except (ConfigError, WeightsError):
        return None


async def quality_of(gateway: Gateway, model: str) -> list[Quality]:
    """Measured figures of a model, by bits; published ones of SmolLM2-135M where it was not measured."""
    found = {row.bits: Quality(**asdict(row)) for row in await measured(gateway.connection, model)}
    rows = {row.bits: Quality(**asdict(row)) for row in published(configured(gateway, model).weights)} | found
    return [rows[bits] for bits in sorted(rows)]


def at_bits(quality: list[Quality], bits: int) -> Quality | None:
    """The row of these bits."""
    return next((row for row in quality if row.bits == bits), None)
