"""What Celery's schedule does. Each may run twice, or on two workers at once."""

from __future__ import annotations

import contextlib

import structlog

from services.store import usage_report as usage
from services.store.connection import Connection
from services.store.job_args import AutotuneArgs, JobArgs, RollupArgs
from services.store.jobs import Jobs, Locked

AUTOTUNE_S = 24 * 3600
BY = "beat"

log = structlog.get_logger()


async def resend_lost(connection: Connection, now_s: float) -> None:
    """Give Celery the messages again that it has lost."""
    for job in await Jobs(connection).resend_lost(now_s):
        log.warning("job.sent_again", job=job.id, kind=job.kind, state=job.state.value)


async def roll_up_usage(connection: Connection, now_s: float) -> None:
    """A job for each day whose usage can be summed up."""
    for day in await usage.days_due(connection, now_s):
        await _start(connection, "usage_rollup", day, RollupArgs(day=day), now_s)


async def propose_kv_bits(connection: Connection, now_s: float) -> None:
    """An autotune job once a day."""
    if await Jobs(connection).autotune_due(AUTOTUNE_S):
        await _start(connection, "autotune", "", AutotuneArgs(), now_s)


async def _start(connection: Connection, kind: str, target: str, args: JobArgs, now_s: float) -> None:
    with contextlib.suppress(Locked):
        await Jobs(connection).create(kind, target, args.stored(), by=BY, now_s=now_s, lock=f"{kind}:{target}")
