"""Job: keep a day's usage for good."""

from __future__ import annotations

from typing import Any

from services.jobs.run import Context
from services.store import usage_report as usage


async def run(context: Context) -> dict[str, Any]:
    """Args: day (None: yesterday). Result: the day's sums. The same day again gives the same."""
    now_s = context.clock()
    day = context.job.args.get("day") or usage.day_before(usage.day_now(now_s), 1)
    await context.say(0.2, f"adding up {day}")
    found = await usage.roll_up(context.connection, day, now_s)
    return {"day": day, "rows": len(found), "total": usage.as_dict(usage.total(found))}
