"""Jobs as Redis keeps them.

    queued -> running -> succeeded | failed | rolled_back | cancelled

A job and Celery's message about it are stored in one step, and the message is acknowledged when the job has ended:
whatever is killed meanwhile, the message waits in Celery's queue or among its unacknowledged ones.

A job runs in attempts. Each writes with its number, so one that was given up for dead cannot write over its successor.
A job that needs something to itself (a model) holds that lock from its creation to its end.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson
from pydantic import JsonValue

from services.store import redis_keys as keys
from services.store.celery_message import job_message
from services.store.connection import Connection, translated

JOB_KEEP_S = 30 * 86400
JOBS_MAX = 2000
BEAT_S = 2.0
BEAT_AGE_S_MAX = 15.0  # an attempt that was silent for so long is dead
UNSENT_S_MIN = 60.0  # a message that Celery has just taken is nowhere for a moment

JobData = dict[str, JsonValue]  # arguments (job_args) or result of a job, in the shape of its kind


class JobState(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


def lock_of_model(model: str) -> str:
    """What jobs that change a model hold."""
    return f"model:{model}"


OPEN = (JobState.QUEUED, JobState.RUNNING)


class Locked(Exception):
    """Another job that has not ended has what this one needs."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} is in the way")
        self.job = job


class Fenced(Exception):
    """This attempt is not the job's any more: another one runs, or the job has ended."""


class Cancelled(Exception):
    """Somebody asked for the job to stop."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """One job. `progress` is 0 to 1. Times are Unix seconds."""

    id: str
    kind: str
    target: str
    args: JobData = field(default_factory=dict)
    state: JobState = JobState.QUEUED
    progress: float = 0.0
    words: str = "waiting for a worker"
    created_s: float = 0.0
    started_s: float | None = None
    ended_s: float | None = None
    beat_s: float | None = None
    attempt: int = 0
    by: str = ""
    lock: str = ""
    result: JobData | None = None
    error: str | None = None
    retry_of: str | None = None
    cancel: bool = False

    @property
    def open(self) -> bool:
        return self.state in OPEN


class Jobs:
    """All jobs. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(
        self,
        kind: str,
        target: str,
        args: Mapping[str, JsonValue],
        *,
        by: str,
        now_s: float,
        lock: str = "",
        retry_of: str | None = None,
    ) -> StoredJob:
        """A queued job, in Celery's queue, too. `lock` names what it needs to itself. Raises Locked."""
        job_id = f"job-{secrets.token_hex(8)}"
        job = StoredJob(job_id, kind, target, dict(args), created_s=now_s, by=by, lock=lock, retry_of=retry_of)
        names = ("id", "kind", "target", "args", "state", "progress", "words", "created_s", "by", "lock", "retry_of")
        values = {name: getattr(job, name) for name in names} | {"attempt": 0}
        answer = await self._connection.script(
            "job_create",
            [keys.job(job.id), keys.JOBS, keys.job_lock(lock) if lock else "", keys.CELERY_QUEUE],
            [job.id, now_s, JOB_KEEP_S, JOBS_MAX, keys.job(""), job_message(kind, job.id), *_pairs(values)],
        )
        if answer[0] == b"locked":
            raise Locked(answer[1].decode())
        return job

    async def get(self, job_id: str) -> StoredJob | None:
        """One job, or None."""
        with translated():
            stored = await self._connection.redis.hgetall(keys.job(job_id))
        return _decode(stored) if stored else None

    async def recent(self, most: int) -> list[StoredJob]:
        """The newest jobs, newest first."""
        with translated():
            ids = await self._connection.redis.zrevrange(keys.JOBS, 0, most - 1)
            async with self._connection.redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hgetall(keys.job(job_id.decode()))
                stored = await pipe.execute()
        return [_decode(values) for values in stored if values]

    async def holder(self, lock: str) -> StoredJob | None:
        """The open job that has `lock` to itself."""
        with translated():
            job_id = await self._connection.redis.get(keys.job_lock(lock))
        job = await self.get(job_id.decode()) if job_id else None
        return job if job is not None and job.open else None

    async def cancel(self, job: StoredJob, now_s: float) -> None:
        """Ask a job to stop. One that nobody has begun ends at once."""
        with translated():
            await self._connection.redis.hset(keys.job(job.id), "cancel", 1)
        if job.state is JobState.QUEUED:
            attempt = await self.begin(job.id, now_s)
            if attempt is not None:
                await attempt.end(JobState.CANCELLED, "cancelled before it began", now_s)

    async def begin(self, job_id: str, now_s: float) -> Attempt | None:
        """Start an attempt. None when the job has ended, or another attempt is alive."""
        job = await self.get(job_id)
        if job is None or not job.open:
            return None
        if job.state is JobState.RUNNING and now_s - (job.beat_s or 0.0) < BEAT_AGE_S_MAX:
            return None
        number = await self._take(job, now_s)
        return Attempt(self._connection, job, number) if number is not None else None

    async def _take(self, job: StoredJob, now_s: float) -> int | None:
        answer = await self._connection.script(
            "job_begin", [keys.job(job.id)], [job.attempt, str(now_s), "started" if job.attempt == 0 else "resumed"]
        )
        return int(answer) if answer is not None else None

    async def autotune_due(self, every_s: int) -> bool:
        """Whether nobody has asked this within `every_s`."""
        with translated():
            return bool(await self._connection.redis.set(keys.AUTOTUNED, 1, nx=True, ex=every_s))

    async def resend_lost(self, now_s: float) -> list[StoredJob]:
        """Give Celery its message again of each open job whose message it has lost. Returns those jobs.

        Kombu takes a message off the queue before it notes who has it: a worker killed in between loses the message.
        """
        lost = []
        for job in await self.recent(JOBS_MAX):
            if job.open and now_s - max(job.created_s, job.beat_s or 0.0) >= UNSENT_S_MIN:
                names = [keys.job(job.id), keys.CELERY_QUEUE, keys.CELERY_UNACKED]
                if await self._connection.script("job_resend", names, [job.id, job_message(job.kind, job.id)]):
                    lost.append(job)
        return lost


class Attempt:
    """One run of a job. Methods raise Fenced, QueueUnavailable; those that say so, Cancelled."""

    def __init__(self, connection: Connection, job: StoredJob, number: int) -> None:
        self._connection = connection
        self.job = job
        self.number = number

    async def report(self, progress: float, words: str) -> None:
        """How far it is. Raises Cancelled."""
        if await self.report_to_end(progress, words):
            raise Cancelled

    async def report_to_end(self, progress: float, words: str) -> bool:
        """The same, of work that must not stop here. True: its end was asked for."""
        return await self._write(progress=round(progress, 4), words=words)

    async def heartbeat(self, now_s: float) -> None:
        """It is alive, so its message stays with its worker."""
        await self._write(beat_s=now_s)
        with translated():
            await self._connection.redis.zadd(keys.CELERY_UNACKED_INDEX, {self.job.id: now_s}, xx=True)

    async def end(
        self,
        state: JobState,
        words: str,
        now_s: float,
        *,
        result: Mapping[str, object] | None = None,
        error: str | None = None,
    ) -> None:
        """It has ended. What it had to itself is free again."""
        progress = 1.0 if state is JobState.SUCCEEDED else None
        await self._write(state=state, words=words, ended_s=now_s, progress=progress, result=result, error=error)

    async def _write(self, **values: object) -> bool:
        lock = keys.job_lock(self.job.lock) if self.job.lock else ""
        answer = await self._connection.script(
            "job_write", [keys.job(self.job.id), lock], [self.number, self.job.id, *_pairs(values)]
        )
        if answer == b"fenced":
            raise Fenced(self.job.id)
        return bool(answer == b"cancel")


def _pairs(values: Mapping[str, object]) -> list[str | bytes]:
    pairs: list[str | bytes] = []
    for name, value in values.items():
        if value is not None:
            pairs += (name, orjson.dumps(value, default=str) if isinstance(value, dict) else str(value))
    return pairs


def _decode(stored: Mapping[bytes, bytes]) -> StoredJob:
    values = {name.decode(): value.decode() for name, value in stored.items()}

    def seconds(name: str) -> float | None:
        return float(values[name]) if name in values else None

    return StoredJob(
        id=values["id"],
        kind=values["kind"],
        target=values["target"],
        args=orjson.loads(values["args"]),
        state=JobState(values["state"]),
        progress=float(values["progress"]),
        words=values["words"],
        created_s=float(values["created_s"]),
        started_s=seconds("started_s"),
        ended_s=seconds("ended_s"),
        beat_s=seconds("beat_s"),
        attempt=int(values.get("attempt", 0)),
        by=values["by"],
        lock=values["lock"],
        result=orjson.loads(values["result"]) if "result" in values else None,
        error=values.get("error"),
        retry_of=values.get("retry_of"),
        cancel="cancel" in values,
    )
