"""Models: what they are, their KV bits, and jobs that load, unload, put to sleep and wake them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import Path, Response, status

from gateway.admin.auth import Operator, Viewer
from gateway.admin.catalog import at_bits, configured, models, quality_of
from gateway.admin.common import Host, note, noted, routes
from gateway.admin.errors import BadValue, Conflict, DoesNotFit
from gateway.admin.jobs import job_running, shown, started
from gateway.admin.live import live_change
from gateway.admin.schemas import Job, KvPlan, Model, ModelKv, ModelKvAnswer, Page
from gateway.state import Gateway
from services.contracts.engines import EngineState
from services.planner import kv_change as plans
from services.planner.plan_inputs import ConfigError, WeightsError, scene
from services.store.job_args import JobArgs, KvBitsArgs
from services.store.jobs import Jobs, Locked, lock_of_model

Verb = Annotated[Literal["load", "unload", "sleep", "wake"], Path()]

router = routes("models")


@router.get("/models")
async def index(host: Host, _: Viewer) -> Page[Model]:
    """All models of this host."""
    return Page(items=await models(host))


@router.get("/models/{model}")
async def show(model: str, host: Host, _: Viewer) -> Model:
    """One model."""
    configured(host, model)
    return next(found for found in await models(host) if found.name == model)


@router.put(
    "/models/{model}/kv",
    responses={202: {"model": ModelKvAnswer, "description": "A job changes it now."}},
)
async def put_kv(model: str, wanted: ModelKv, response: Response, host: Host, actor: Operator) -> ModelKvAnswer:
    """Change the KV bits, with no chat lost: at once where the engine can, else by a job. `dry_run` only says how."""
    configured(host, model)
    plan, current = await _planned(host, model, wanted.bits)
    if wanted.dry_run or plan.how == "none":
        return ModelKvAnswer(model=model, dry_run=wanted.dry_run, done=plan.how == "none", plan=plan)
    _check(model, plan, current)
    entry = note(host, actor, "model.kv", model, before={"kv_bits": plan.bits_now}, after={"kv_bits": wanted.bits})
    if plan.how == "live":
        holder = await Jobs(host.connection).holder(lock_of_model(model))
        if holder is not None:
            raise job_running(model, holder.id)
        await live_change(host, model, wanted.bits)
        await noted(host, entry)
        return ModelKvAnswer(model=model, dry_run=False, done=True, plan=plan)
    try:
        job = await started(host, actor, "kv_bits", model, KvBitsArgs(bits=wanted.bits), lock=lock_of_model(model))
    except Locked as error:
        raise job_running(model, error.job) from None
    await noted(host, entry)
    response.status_code = status.HTTP_202_ACCEPTED
    return ModelKvAnswer(model=model, dry_run=False, done=False, plan=plan, job=shown(job))


@router.post("/models/{model}/{verb}", status_code=status.HTTP_202_ACCEPTED)
async def power(model: str, verb: Verb, host: Host, actor: Operator) -> Job:
    """Load or unload, put to sleep or wake. A chat wakes a sleeping model; an unloaded one stays away."""
    configured(host, model)
    try:
        job = await started(host, actor, verb, model, JobArgs(), lock=lock_of_model(model))
    except Locked as error:
        raise job_running(model, error.job) from None
    await noted(host, note(host, actor, f"model.{verb}", model, after={"job": job.id}))
    return shown(job)


async def _planned(host: Gateway, model: str, bits: int) -> tuple[KvPlan, EngineState | None]:
    try:
        seen = await scene(host.config, host.connection, model)
    except (ConfigError, WeightsError) as error:
        raise Conflict(f"{model} cannot be planned for: {error}", code="not_planned") from None
    able = plans.possible_bits(seen.needs[model], seen.engines.get(model))
    if bits not in able:
        raise BadValue(
            f"{model} holds KV at {', '.join(map(str, able))} bits, not {bits}.", code="kv_bits", param="bits"
        )
    plan, quality = plans.plan_kv(seen, model, bits), await quality_of(host, model)
    engine = seen.engines.get(model)
    shown_plan = KvPlan(
        **asdict(plan), quality_now=at_bits(quality, plan.bits_now), quality_new=at_bits(quality, plan.bits_new)
    )
    return shown_plan, engine.report.state if engine else None


def _check(model: str, plan: KvPlan, state: EngineState | None) -> None:
    if not plan.fits:
        raise DoesNotFit(plan.words, param="bits", missing_bytes=plan.missing_bytes, would_fit=plan.would_fit)
    if plan.bots_below_floor:
        raise Conflict(
            f"{', '.join(plan.bots_below_floor)} promise more than {plan.bits_new} bits. Change their KV policy first.",
            code="below_floor",
            param="bits",
        )
    if state is EngineState.DOWN:
        raise Conflict(f"{model} is not loaded. Load it first.", code="not_up")
