"""Job: propose KV bits for each bot (services.planner.autotune), and change them where that was asked for."""

from __future__ import annotations

from dataclasses import asdict, replace

from services.jobs.attempt import Context, JobResult
from services.planner.autotune import AutotuneResult, apply, possible, proposals, shortness
from services.store.audit_log import Note
from services.store.job_args import AutotuneArgs
from services.store.quality import measured
from services.store.registry_edit import read_registry
from services.store.submission import SubmissionClient


async def run(context: Context) -> JobResult:
    """Args: AutotuneArgs. Result: AutotuneResult."""
    args, connection = AutotuneArgs.model_validate(context.job.args), context.connection
    registry, snapshot = await read_registry(connection), await SubmissionClient(connection).snapshot()
    models = {bot.model for record in registry.tenants.values() for bot in record.config.bots.values()}
    await context.report(0.2, f"looking at {len(models)} models")
    quality = {model: await measured(connection, model) for model in models}
    wished = proposals(registry, quality, shortness(snapshot), args.perplexity_change_max)
    found, dropped = possible(wished, await SubmissionClient(connection).engines())
    result = AutotuneResult(found, dropped)
    if args.apply:
        await context.report(0.8, f"changing {len(found)} bots")
        note = Note(context.clock(), context.job.by or context.job.id, "job", "bot.kv", "", context.job.id)
        changed, left = await apply(connection, found, note)
        result = replace(result, changed=changed, left=left)
    return asdict(result)
