"""Jobs on a real Celery worker: they run, report, can be cancelled, and outlive a worker that is killed."""

from __future__ import annotations

import asyncio
import base64
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery

from services.config.host_secrets import load_secrets
from services.config.schema import load
from services.jobs.celery_app import SCHEDULE_S, application, broker_url
from services.jobs.tasks import SCHEDULED
from services.store import jobs as store
from services.store import redis_keys as keys
from services.store import usage_report as usage
from services.store.celery_message import job_message, task_name
from services.store.connection import Connection, QueueUnavailable
from services.store.embedded_redis import EmbeddedRedis
from services.store.jobs import Fenced, Jobs, JobState, Locked
from services.store.runtime import Runtime
from tests.jobs.conftest import Workers, job_when, long_silent, write_config


async def test_a_job_runs_and_says_how_far_it_is(connection: Connection, workers: Workers) -> None:
    workers.start()
    await connection.redis.hset(keys.usage("2026-11-20", "acme", "acme/support"), mapping={"chats": 3})
    await connection.redis.sadd(keys.USAGES, keys.usage("2026-11-20", "acme", "acme/support"))
    job = await Jobs(connection).create("usage_rollup", "", {"day": "2026-11-20"}, by="test", now_s=time.time())
    done = await job_when(connection, job.id)
    assert (done.state, done.progress, done.words, done.attempt) == (JobState.SUCCEEDED, 1.0, "done", 1)
    done_result: Any = done.result
    assert done_result["total"]["chats"] == 3
    assert {key.decode().split(":")[1] for key in await connection.redis.keys("*celery*")} == {"celery"}
    await connection.redis.lpush(keys.CELERY_QUEUE, job_message(job.kind, job.id))  # a second message of the same job
    async with asyncio.timeout(20):
        while await waiting(connection) or await connection.redis.hlen(keys.CELERY_UNACKED):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await job_when(connection, job.id)).attempt == 1
    assert list(workers.folder.iterdir()) == []


async def waiting(connection: Connection) -> list[str]:
    """Messages in Celery's queue."""
    return [message.decode() for message in await connection.redis.lrange(keys.CELERY_QUEUE, 0, -1)]


async def test_a_job_whose_worker_is_killed_is_taken_up_again(connection: Connection, workers: Workers) -> None:
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
    assert await connection.redis.hkeys(keys.CELERY_UNACKED) == [job.id.encode()]
    await long_silent(connection, job.id)
    workers.start()
    again = await job_when(connection, job.id, lambda job: job.attempt == 2)
    assert again.state is JobState.RUNNING
    await jobs.cancel(again, time.time())
    assert (await job_when(connection, job.id)).state is JobState.CANCELLED
    assert await jobs.holder("model:m") is None


async def test_a_job_goes_on_after_redis_was_silent(connection: Connection, workers: Workers) -> None:
    jobs = Jobs(connection)
    workers.start()
    job = await jobs.create("sleep", "m", {}, by="test", now_s=time.time(), lock="model:m")
    await job_when(connection, job.id, lambda job: job.state is JobState.RUNNING)
    await connection.redis.execute_command("CLIENT", "PAUSE", 5000, "ALL")  # timeouts are 2 s
    async with asyncio.timeout(30):
        while "job.queues_unavailable" not in workers.log():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        while True:
            try:
                await long_silent(connection, job.id)
                break
            except QueueUnavailable:
                await asyncio.sleep(0.1)
    again = await job_when(connection, job.id, lambda job: job.attempt == 2)
    await jobs.cancel(again, time.time())
    assert (await job_when(connection, job.id)).state is JobState.CANCELLED
    async with asyncio.timeout(20):
        while await waiting(connection) or await connection.redis.hlen(keys.CELERY_UNACKED):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


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
    assert second.number == 2
    with pytest.raises(Fenced):
        await first.report(0.5, "still here")
    await second.end(JobState.SUCCEEDED, "done", now_s)
    with pytest.raises(Fenced):
        await second.end(JobState.FAILED, "twice", now_s)


async def tick(connection: Connection, now_s: float) -> None:
    """All of the schedule at once."""
    for work in SCHEDULED.values():
        await work(connection, now_s)


async def test_the_beat_sends_lost_jobs_again_and_rolls_days_up(connection: Connection) -> None:
    jobs, now_s = Jobs(connection), time.time()
    lost = await jobs.create("sleep", "m", {}, by="test", now_s=now_s - 60)
    await connection.redis.delete(keys.CELERY_QUEUE)
    await connection.redis.sadd(keys.USAGES, keys.usage("2026-11-20", "acme", "acme/support"))
    await tick(connection, now_s)
    await tick(connection, now_s)  # what was done a moment ago is not due
    assert sum(lost.id in entry for entry in await waiting(connection)) == 1
    assert sorted(job.kind for job in await jobs.recent(10)) == ["autotune", "sleep", "usage_rollup"]


async def test_only_a_message_that_celery_has_lost_is_sent_again(connection: Connection) -> None:
    jobs, now_s = Jobs(connection), time.time()
    old_s = now_s - store.UNSENT_S_MIN
    in_queue = await jobs.create("sleep", "a", {}, by="test", now_s=old_s)
    taken = await jobs.create("sleep", "b", {}, by="test", now_s=old_s)
    ended = await jobs.create("sleep", "c", {}, by="test", now_s=old_s)
    lost = await jobs.create("sleep", "d", {}, by="test", now_s=old_s)
    new = await jobs.create("sleep", "e", {}, by="test", now_s=now_s)
    await jobs.cancel(ended, now_s)
    await connection.redis.delete(keys.CELERY_QUEUE)
    await connection.redis.lpush(keys.CELERY_QUEUE, job_message("sleep", in_queue.id))
    await connection.redis.hset(keys.CELERY_UNACKED, taken.id, "a message")
    assert [job.id for job in await jobs.resend_lost(now_s)] == [lost.id]
    assert await jobs.resend_lost(now_s) == []
    assert [job.id for job in await jobs.resend_lost(now_s + store.UNSENT_S_MIN)] == [new.id]
    begun = await jobs.begin(lost.id, now_s)
    assert begun is not None
    await connection.redis.delete(keys.CELERY_QUEUE)  # the message of a running job whose worker died as it took it
    assert lost.id not in [job.id for job in await jobs.resend_lost(now_s + store.UNSENT_S_MIN - 1)]
    assert lost.id in [job.id for job in await jobs.resend_lost(now_s + store.UNSENT_S_MIN)]


async def test_a_heartbeat_keeps_a_message_with_its_worker(connection: Connection) -> None:
    jobs, now_s = Jobs(connection), time.time()
    job = await jobs.create("sleep", "m", {}, by="test", now_s=now_s)
    attempt = await jobs.begin(job.id, now_s)
    assert attempt is not None
    await attempt.heartbeat(now_s + 1)
    assert await connection.redis.zscore(keys.CELERY_UNACKED_INDEX, job.id) is None
    await connection.redis.zadd(keys.CELERY_UNACKED_INDEX, {job.id: now_s})
    await attempt.heartbeat(now_s + 2)
    assert await connection.redis.zscore(keys.CELERY_UNACKED_INDEX, job.id) == now_s + 2


async def test_a_jobs_message_is_what_celery_itself_would_send(connection: Connection, runtime: Runtime) -> None:
    app = application(runtime)
    await asyncio.to_thread(app.send_task, task_name("sleep"), ("job-1",), task_id="job-1", ignore_result=True)
    [sent] = await waiting(connection)
    theirs, ours = orjson.loads(sent), orjson.loads(job_message("sleep", "job-1"))
    assert orjson.loads(base64.b64decode(ours["body"])) == orjson.loads(base64.b64decode(theirs["body"]))
    for part in (theirs, ours):
        del part["body"], part["properties"]["delivery_tag"]
        for name in ("origin", "reply_to"):
            part["headers"].pop(name, None)
            part["properties"].pop(name, None)
    assert {name: theirs["headers"].get(name) for name in ours["headers"]} == ours["headers"]
    assert {**theirs, "headers": ours["headers"]} == ours


def test_the_schedule_names_tasks_that_exist() -> None:
    assert set(SCHEDULE_S) == set(SCHEDULED)


async def test_a_day_is_rolled_up_after_its_end_and_when_its_counters_go(connection: Connection) -> None:
    """A job an hour for each day that counters are kept of buried everybody else's."""
    midnight = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
    days = [usage.day_before("2026-11-25", back) for back in range(95)]
    counted = [keys.usage(day, "acme", "acme/support") for day in days]
    await connection.redis.sadd(keys.USAGES, *counted)

    async def begun(now_s: float) -> list[str]:
        """Days of the jobs that a tick makes, which are then done."""
        await connection.redis.delete(keys.JOBS)
        await tick(connection, now_s)
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
        async with runtime.connect() as connection:
            job = await Jobs(connection).create("sleep", "m", {}, by="test", now_s=time.time())
        assert await asyncio.to_thread(_one_message, application(runtime)) == job.id
    finally:
        await redis.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _one_message(app: Celery) -> object:
    with app.connection_for_read() as connection, connection.SimpleQueue(keys.CELERY_JOBS) as queue:
        message = queue.get(timeout=15)
        message.ack()
        return message.payload[0][0]


def test_kombu_gets_its_own_kind_of_url() -> None:
    assert broker_url("unix:///run/redis.sock", "p/w") == "redis+socket://:p%2Fw@/run/redis.sock"
    assert broker_url("unix:///run/redis.sock", None) == "redis+socket:///run/redis.sock"
    assert broker_url("redis://host:6379/2", "pw") == "redis://:pw@host:6379/2"
    assert broker_url("redis://u:old@host:6379/0", None) == "redis://u:old@host:6379/0"
