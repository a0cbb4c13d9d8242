"""One attempt at a job, in a thread of the Celery worker: claim, work beside a heartbeat, write down how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.store.connection import Connection, QueueUnavailable
from services.store.jobs import BEAT_S, Attempt, Cancelled, Fenced, Jobs, JobState, StoredJob
from services.store.runtime import Runtime

log = structlog.get_logger()


class JobFailed(Exception):
    """A job that cannot be done, with words for whoever asked. `state`: ROLLED_BACK where something was undone."""

    def __init__(self, message: str, state: JobState = JobState.FAILED, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.state = state
        self.result = result


@dataclass(frozen=True)
class Context:
    """What a job works with."""

    runtime: Runtime
    connection: Connection
    attempt: Attempt
    clock: Callable[[], float] = field(default=time.time)

    @property
    def job(self) -> StoredJob:
        return self.attempt.job

    async def say(self, progress: float, words: str) -> None:
        """How far it is. Raises Cancelled."""
        await self.attempt.say(progress, words)


def perform(runtime: Runtime, job_id: str) -> None:
    """What the Celery task does. Raises QueueUnavailable where Redis went away: the sweep starts the job again."""
    asyncio.run(_perform(runtime, job_id))


async def _perform(runtime: Runtime, job_id: str) -> None:
    async with runtime.connect() as connection:
        attempt = await Jobs(connection).begin(job_id, time.time())
        if attempt is None:
            log.info("job.not_ours", job=job_id)
            return
        log.info("job.begins", job=job_id, kind=attempt.job.kind, target=attempt.job.target, attempt=attempt.number)
        context = Context(runtime, connection, attempt)
        work = asyncio.create_task(_worked(context))
        beating = asyncio.create_task(_beat(context, work))
        try:
            await work
        except asyncio.CancelledError:
            log.warning("job.fenced", job=job_id, attempt=attempt.number)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


async def _beat(context: Context, work: asyncio.Task[None]) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await context.attempt.beat(context.clock())
        except Fenced:
            work.cancel()
            return
        except QueueUnavailable as error:
            log.warning("job.beat_failed", job=context.job.id, why=str(error))


async def _worked(context: Context) -> None:
    from services.jobs.tasks import HANDLERS  # noqa: PLC0415  (handlers import this module)

    attempt, now = context.attempt, context.clock
    try:
        result = await HANDLERS[context.job.kind](context)
        await attempt.end(JobState.SUCCEEDED, "done", now(), result=result)
    except Cancelled:
        await attempt.end(JobState.CANCELLED, "cancelled", now())
    except JobFailed as error:
        await attempt.end(
            error.state, error.state.value.replace("_", " "), now(), result=error.result, error=str(error)
        )
    except (Fenced, QueueUnavailable):
        raise
    except Exception as error:  # the outermost handler of a job: it must end, and say why
        log.exception("job.crashed", job=context.job.id, kind=context.job.kind)
        await attempt.end(JobState.FAILED, "failed", now(), error=f"{type(error).__name__}: {error}")
    job = await Jobs(context.connection).get(context.job.id)
    if job is not None:
        log.info("job.ended", job=job.id, kind=job.kind, state=job.state.value, error=job.error)
