"""Job: change a model's KV bits, with no chat lost.

The model's worker does it (services/worker/change.py); this plans, sends the command and follows it.
"""

from __future__ import annotations

from dataclasses import asdict

from services.jobs.attempt import Context, JobFailed, JobResult
from services.jobs.model_command import follow
from services.planner.kv_change import KvChangePlan, plan_kv, possible_bits
from services.planner.plan_inputs import ConfigError, WeightsError, scene
from services.store.commands import CommandResult, Commands, CommandState
from services.store.job_args import KvBitsArgs
from services.store.jobs import Cancelled, JobState


async def run(context: Context) -> JobResult:
    """Args: KvBitsArgs. Result: the bits that the model has now, and the plan. Raises JobFailed, Cancelled."""
    model, bits = context.job.target, KvBitsArgs.model_validate(context.job.args).bits
    before = await Commands(context.connection).read(model)
    plan: KvChangePlan | None = None
    if before is None or before.id != context.job.id:  # an attempt that takes over goes on where the first one was
        plan = await _planned(context, model, bits)
        if plan.how == "none":
            return {"kv_bits": bits, "plan": asdict(plan)}
        await context.report(0.05, plan.words)
    command = await follow(context, model, "kv_bits", {"bits": bits, "how": plan.how if plan else "drain"})
    found = command.result or CommandResult()
    result = {**found, "plan": asdict(plan) if plan else None}
    if command.state is CommandState.DONE:
        return result
    if found.get("cancelled"):
        raise Cancelled
    words = f"{command.error} The model goes on with {found.get('kv_bits')} bits."
    raise JobFailed(words, JobState.ROLLED_BACK, result)


async def _planned(context: Context, model: str, bits: int) -> KvChangePlan:
    try:
        seen = await scene(context.runtime.config, context.connection, model)
    except (ConfigError, WeightsError) as error:
        raise JobFailed(f"{model} cannot be planned for: {error}") from error
    able = possible_bits(seen.needs[model], seen.engines.get(model))
    if bits not in able:
        raise JobFailed(f"{model} holds KV at {', '.join(map(str, able))} bits, not {bits}.")
    plan = plan_kv(seen, model, bits)
    if not plan.fits:
        fitting = ", ".join(map(str, plan.would_fit)) or "none"
        raise JobFailed(f"{plan.words} Bits that fit: {fitting}.")
    return plan
