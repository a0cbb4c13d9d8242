"""One run of a job, in a thread of the Celery worker: claim, work beside a heartbeat, store how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from services.store.connection import Connection, QueueUnavailable
from services.store.jobs import BEAT_S, Attempt, Cancelled, Fenced, Jobs, JobState, StoredJob
from services.store.runtime import Runtime

JobResult = Mapping[str, object]  # stored as JSON

log = structlog.get_logger()


class JobFailed(Exception):
    """A job that cannot be done, and why. `state`: ROLLED_BACK where something was undone."""

    def __init__(self, message: str, state: JobState = JobState.FAILED, result: JobResult | None = None) -> None:
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

    async def report(self, progress: float, words: str) -> None:
        """How far it is. Raises Cancelled."""
        await self.attempt.report(progress, words)


# Gives the job's result. Raises JobFailed, Cancelled, Fenced, QueueUnavailable; running one twice is harmless.
Handler = Callable[[Context], Awaitable[JobResult]]


async def perform(runtime: Runtime, job_id: str, handler: Handler) -> bool:
    """Whether the job has ended, now or before; else another attempt has it. Raises QueueUnavailable."""
    async with runtime.connect() as connection:
        jobs = Jobs(connection)
        attempt = await jobs.begin(job_id, time.time())
        if attempt is None:
            job = await jobs.get(job_id)
            return job is None or not job.open
        log.info("job.begins", job=job_id, kind=attempt.job.kind, target=attempt.job.target, attempt=attempt.number)
        context = Context(runtime, connection, attempt)
        work = asyncio.create_task(_work(context, handler))
        beating = asyncio.create_task(_beat(context, work))
        try:
            await work
        except (asyncio.CancelledError, Fenced):
            log.warning("job.fenced", job=job_id, attempt=attempt.number)
            return False
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
        return True


async def _beat(context: Context, work: asyncio.Task[None]) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await context.attempt.heartbeat(context.clock())
        except Fenced:
            work.cancel()
            return
        except QueueUnavailable as error:
            log.warning("job.beat_failed", job=context.job.id, why=str(error))


async def _work(context: Context, handler: Handler) -> None:
    attempt, state, error, result = context.attempt, JobState.SUCCEEDED, None, None
    try:
        result = await handler(context)
    except Cancelled:
        state = JobState.CANCELLED
    except JobFailed as failed:
        state, error, result = failed.state, str(failed), failed.result
    except (Fenced, QueueUnavailable):
        raise
    except Exception as crash:  # the outermost handler of a job: it must end, and say why
        log.exception("job.crashed", job=context.job.id, kind=context.job.kind)
        state, error = JobState.FAILED, f"{type(crash).__name__}: {crash}"
    words = "done" if state is JobState.SUCCEEDED else state.value.replace("_", " ")
    await attempt.end(state, words, context.clock(), result=result, error=error)
    log.info("job.ended", job=context.job.id, kind=context.job.kind, state=state.value, error=error)
