"""Jobs on a real Celery worker: they run, report, can be cancelled, and outlive a worker that is killed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from celery import Celery

from services.config.host_secrets import load_secrets
from services.config.schema import load
from services.jobs.beat import tick
from services.jobs.broker import QUEUE, Sender, application, broker_url
from services.store import jobs as store
from services.store import redis_keys as keys
from services.store import usage_report as usage
from services.store.connection import Connection
from services.store.embedded_redis import EmbeddedRedis
from services.store.jobs import Fenced, Jobs, JobState, Locked
from services.store.runtime import Runtime
from tests.jobs.conftest import Workers, job_when, write_config


async def test_a_job_runs_and_says_how_far_it_is(connection: Connection, workers: Workers, sender: Sender) -> None:
    workers.start()
    await connection.redis.hset(keys.usage("2026-11-20", "acme", "acme/support"), mapping={"chats": 3})
    await connection.redis.sadd(keys.USAGES, keys.usage("2026-11-20", "acme", "acme/support"))
    job = await Jobs(connection).create("usage_rollup", "", {"day": "2026-11-20"}, by="test", now_s=time.time())
    done = await job_when(connection, job.id)
    assert (done.state, done.progress, done.words, done.attempt) == (JobState.SUCCEEDED, 1.0, "done", 1)
    assert done.result is not None
    assert done.result["total"]["chats"] == 3
    assert {key.decode().split(":")[1] for key in await connection.redis.keys("*celery*")} == {"celery"}
    await sender.send(job.id)  # a second message of the same job
    await asyncio.sleep(1)
    assert (await job_when(connection, job.id)).attempt == 1


async def test_a_job_whose_worker_is_killed_is_taken_up_again(
    connection: Connection, workers: Workers, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BEAT_AGE_S_MAX", 3.0)
    jobs = Jobs(connection)
    first = workers.start()
    job = await jobs.create(
        "sleep", "m", {}, by="test", now_s=time.time(), lock="model:m"
    )  # m has no worker: it waits for one
    await job_when(connection, job.id, lambda job: job.state is JobState.RUNNING)
    first.kill()
    first.wait()
    begun = await jobs.get(job.id)
    assert begun is not None
    assert begun.state is JobState.RUNNING
    async with asyncio.timeout(30):
        while not (all_lost := await jobs.lost(time.time(), 30)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    for lost in all_lost:
        await connection.redis.hset(keys.job(lost.id), "beat_s", 0)
        await sender.send(lost.id)
    workers.start()
    again = await job_when(connection, job.id, lambda job: job.attempt == 2)
    assert again.state is JobState.RUNNING
    await jobs.cancel(again, time.time())
    assert (await job_when(connection, job.id)).state is JobState.CANCELLED
    assert await jobs.holder("model:m") is None


async def test_one_job_has_a_model_to_itself(connection: Connection) -> None:
    jobs, now_s = Jobs(connection), time.time()
    first = await jobs.create("kv_bits", "m", {"bits": 4}, by="test", now_s=now_s, lock="model:m")
    with pytest.raises(Locked) as locked:
        await jobs.create("kv_bits", "m", {"bits": 8}, by="test", now_s=now_s, lock="model:m")
    assert locked.value.job == first.id
    await jobs.create("kv_bits", "other", {"bits": 8}, by="test", now_s=now_s, lock="model:other")
    await jobs.cancel(first, now_s)
    assert (await job_when(connection, first.id)).state is JobState.CANCELLED
    await jobs.create("kv_bits", "m", {"bits": 8}, by="test", now_s=now_s, lock="model:m")


async def test_an_attempt_that_was_given_up_writes_nothing(connection: Connection) -> None:
    jobs, now_s = Jobs(connection), time.time()
    job = await jobs.create("sleep", "m", {}, by="test", now_s=now_s)
    first = await jobs.begin(job.id, now_s)
    assert first is not None
    assert await jobs.begin(job.id, now_s + 1) is None
    second = await jobs.begin(job.id, now_s + store.BEAT_AGE_S_MAX + 1)
    assert second is not None
    assert second.resumed
    with pytest.raises(Fenced):
        await first.say(0.5, "still here")
    await second.end(JobState.SUCCEEDED, "done", now_s)
    with pytest.raises(Fenced):
        await second.end(JobState.FAILED, "twice", now_s)


async def test_the_beat_sends_lost_jobs_again_and_rolls_days_up(connection: Connection, sender: Sender) -> None:
    jobs, now_s = Jobs(connection), time.time()
    lost = await jobs.create("sleep", "m", {}, by="test", now_s=now_s - 60)
    await connection.redis.sadd(keys.USAGES, keys.usage("2026-11-20", "acme", "acme/support"))
    await tick(connection, sender, now_s)
    await connection.redis.delete(keys.JOBS_NEW)
    await tick(connection, sender, now_s)  # what was done a moment ago is not due
    queue = [entry.decode() for entry in await connection.redis.lrange("bh:celery:jobs", 0, -1)]
    assert sum(lost.id in entry for entry in queue) == 1
    assert sorted(job.kind for job in await jobs.recent(10)) == ["autotune", "sleep", "usage_rollup"]


async def test_a_day_is_rolled_up_after_its_end_and_when_its_counters_go(
    connection: Connection, sender: Sender
) -> None:
    """A job an hour for each day that counters are kept of buried everybody else's."""
    midnight = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
    days = [usage.day_before("2026-11-25", back) for back in range(95)]
    counted = [keys.usage(day, "acme", "acme/support") for day in days]
    await connection.redis.sadd(keys.USAGES, *counted)

    async def begun(now_s: float) -> list[str]:
        """Days of the jobs that a tick makes, which are then done."""
        await connection.redis.delete(keys.JOBS, f"{keys.CELERY_PREFIX}due:rollup")
        await tick(connection, sender, now_s)
        targets = [job.target for job in await Jobs(connection).recent(500) if job.kind == "usage_rollup"]
        for day in targets:
            await usage.roll_up(connection, day, now_s)
            await connection.redis.delete(keys.job_lock(f"usage_rollup:{day}"))
        return sorted(targets)

    assert await begun(midnight + 1800) == sorted(days[2:]), "yesterday may still get counts"
    assert await begun(midnight + 3601) == [days[1]]
    assert await begun(midnight + 7202) == []
    await connection.redis.hset(counted[1], "chats", 3)  # later than anybody thought
    assert await begun(midnight + 86_400 + 3601) == [days[90], days[0]]
    assert counted[90].encode() not in await connection.redis.smembers(keys.USAGES)
    assert days[1] in await begun(midnight + 91 * 86_400)
    [row] = await usage.rows(connection, days[1], days[1])
    assert row.chats == 3


async def test_celery_logs_in_at_a_socket_with_a_password(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bh-redis-"))  # short: a socket's path has about 100 bytes
    redis = EmbeddedRedis(folder, folder / "s", "se/cret", tmp_path / "redis.log")
    await redis.start()
    path = write_config(tmp_path)
    config = load(path, {})
    runtime = Runtime(config, path, load_secrets(config.data_dir, {}), redis.url, "se/cret")
    try:
        await Sender(runtime).send("job-1")
        assert await asyncio.to_thread(_one_message, application(runtime)) == "job-1"
    finally:
        await redis.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _one_message(app: Celery) -> object:
    with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as queue:
        message = queue.get(timeout=15)
        message.ack()
        return message.payload[0][0]


def test_kombu_gets_its_own_kind_of_url() -> None:
    assert broker_url("unix:///run/redis.sock", "p/w") == "redis+socket://:p%2Fw@/run/redis.sock"
    assert broker_url("unix:///run/redis.sock", None) == "redis+socket:///run/redis.sock"
    assert broker_url("redis://host:6379/2", "pw") == "redis://:pw@host:6379/2"
    assert broker_url("redis://u:old@host:6379/0", None) == "redis://u:old@host:6379/0"
