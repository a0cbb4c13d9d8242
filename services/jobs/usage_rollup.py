"""Job: keep a day's usage for good."""

from __future__ import annotations

from services.jobs.attempt import Context, JobResult
from services.store import usage_report as usage
from services.store.job_args import RollupArgs


async def run(context: Context) -> JobResult:
    """Args: RollupArgs (no day: yesterday). Result: the day's sums. The same day again gives the same."""
    now_s = context.clock()
    day = RollupArgs.model_validate(context.job.args).day or usage.day_before(usage.day_now(now_s), 1)
    await context.report(0.2, f"adding up {day}")
    found = await usage.roll_up(context.connection, day, now_s)
    return {"day": day, "rows": len(found), "total": usage.as_dict(usage.total(found))}
