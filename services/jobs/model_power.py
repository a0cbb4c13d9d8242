"""Jobs: load, unload, sleep, wake. A sleeping model is woken by a chat; an unloaded one only by an operator."""

from __future__ import annotations

from services.jobs.attempt import Context, JobFailed, JobResult
from services.jobs.model_command import follow
from services.store.commands import CommandArgs, CommandResult, CommandState
from services.store.jobs import Cancelled


async def run(context: Context) -> JobResult:
    """No args. Result: the KV bits that the model has, or comes back with. Raises JobFailed, Cancelled."""
    job = context.job
    command = await follow(context, job.target, job.kind, CommandArgs())
    result = command.result or CommandResult()
    if command.state is CommandState.DONE:
        return result
    if result.get("cancelled"):
        raise Cancelled
    raise JobFailed(str(command.error), result=result)
