"""Beside each Celery worker: sends new jobs, and what is due by the clock: lost jobs again, roll-ups, autotune.

A key in Redis lets one worker act on each tick.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import structlog

from services.jobs.broker import Sender
from services.store import redis_keys as keys
from services.store import usage_report as usage
from services.store.connection import Connection, QueueUnavailable, translated
from services.store.jobs import Jobs, Locked
from services.store.runtime import Runtime

SWEEP_S = 5.0
QUEUED_AGE_S_MAX = 30.0  # a job that waits longer is sent again, unless workers are simply busy; twice is harmless
AUTOTUNE_S = 24 * 3600.0
ROLLUP_S = 3600.0
BY = "beat"

log = structlog.get_logger()


class Beat(threading.Thread):
    """Ticks for as long as the worker's process lives: it is a daemon thread."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(name="beat", daemon=True)
        self._runtime = runtime

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        sender = Sender(self._runtime)
        while True:
            try:
                async with self._runtime.connect() as connection:
                    while True:
                        await tick(connection, sender, time.time())
                        await send_new(connection, sender)
            except QueueUnavailable as error:
                log.warning("beat.queues_unavailable", why=str(error))
                await asyncio.sleep(SWEEP_S)


async def send_new(connection: Connection, sender: Sender) -> None:
    """Send a job that was just made, or wait for one about as long as a sweep may wait. Raises QueueUnavailable."""
    read = connection.blocking.blpop([keys.JOBS_NEW], timeout=SWEEP_S)
    new = await connection.blocked(read, round(SWEEP_S * 1000))
    if new is not None:
        await sender.send(new[1].decode())


async def tick(connection: Connection, sender: Sender, now_s: float) -> None:
    """Do what is due. Raises QueueUnavailable."""
    jobs = Jobs(connection)
    if await _mine(connection, "sweep", SWEEP_S * 0.8):
        for job in await jobs.lost(now_s, QUEUED_AGE_S_MAX):
            log.warning("job.sent_again", job=job.id, kind=job.kind, state=job.state.value)
            await sender.send(job.id)
            await jobs.sent_again(job, now_s)
    if await _mine(connection, "rollup", ROLLUP_S):
        for day in await usage.days_due(connection, now_s):
            await _start(jobs, "usage_rollup", {"day": day}, now_s)
    if await _mine(connection, "autotune", AUTOTUNE_S):
        await _start(jobs, "autotune", {"apply": False}, now_s)


async def _start(jobs: Jobs, kind: str, args: dict[str, object], now_s: float) -> None:
    target = str(args.get("day", ""))
    with contextlib.suppress(Locked):
        await jobs.create(kind, target, args, by=BY, now_s=now_s, lock=f"{kind}:{target}")


async def _mine(connection: Connection, what: str, every_s: float) -> bool:
    with translated():
        return bool(
            await connection.redis.set(f"{keys.CELERY_PREFIX}due:{what}", 1, nx=True, px=max(1, int(every_s * 1000)))
        )
