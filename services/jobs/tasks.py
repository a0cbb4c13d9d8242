"""Celery's tasks: one for each kind of job, and one for each entry of the schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from celery import Celery
from celery.exceptions import Reject

from services.jobs import autotune, bot_test, kv_bits, loadtest, model_power, periodic, quality, usage_rollup
from services.jobs.attempt import Handler, perform
from services.store.celery_message import task_name
from services.store.connection import Connection, QueueUnavailable
from services.store.jobs import BEAT_S
from services.store.runtime import Runtime

HANDLERS: Mapping[str, Handler] = {
    "kv_bits": kv_bits.run,
    **dict.fromkeys(("load", "unload", "sleep", "wake"), model_power.run),
    "quality": quality.run,
    "bot_test": bot_test.run,
    "loadtest": loadtest.run,
    "usage_rollup": usage_rollup.run,
    "autotune": autotune.run,
}
SCHEDULED: Mapping[str, Callable[[Connection, float], Awaitable[None]]] = {
    "resend_lost": periodic.resend_lost,
    "roll_up_usage": periodic.roll_up_usage,
    "propose_kv_bits": periodic.propose_kv_bits,
}

log = structlog.get_logger()


def register(app: Celery, runtime: Runtime) -> None:
    """Give `app` its tasks."""
    for kind, handler in HANDLERS.items():
        app.task(name=task_name(kind))(_job(runtime, handler))
    for name, work in SCHEDULED.items():
        app.task(name=task_name(name))(_scheduled(runtime, work))


def _job(runtime: Runtime, handler: Handler) -> Callable[[str], None]:
    """A message is acknowledged when its job has ended. Until then it goes back into the queue: the next delivery finds
    another attempt alive, or takes the job over. Celery's own retry would send a second message and drop the first."""

    def job(job_id: str) -> None:
        try:
            ended = asyncio.run(perform(runtime, job_id, handler))
        except QueueUnavailable as error:
            log.warning("job.queues_unavailable", job=job_id, why=str(error))
            ended = False
        if not ended:
            time.sleep(BEAT_S)
            raise Reject("the job has not ended", requeue=True)

    return job


def _scheduled(runtime: Runtime, work: Callable[[Connection, float], Awaitable[None]]) -> Callable[[], None]:
    async def done() -> None:
        async with runtime.connect() as connection:
            await work(connection, time.time())

    def task() -> None:
        try:
            asyncio.run(done())
        except QueueUnavailable as error:
            log.warning("schedule.queues_unavailable", why=str(error))

    return task
