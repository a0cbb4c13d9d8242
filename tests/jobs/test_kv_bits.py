"""The whole way of a change of KV bits: admin API, Celery worker, model worker, real engine, chats all the while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import JsonValue

from services.contracts.chats import KvBits
from services.contracts.replies import Finish
from services.store.jobs import Jobs, JobState
from services.store.quality import measured
from services.store.runtime import Runtime
from tests.jobs.conftest import Workers, job_when, long_silent
from tests.jobs.test_change import Host
from tests.worker.conftest import open_bunk


@pytest.fixture
async def host(runtime: Runtime) -> AsyncIterator[Host]:
    """A model's worker that takes orders, beside a scheduler."""
    async with open_bunk(runtime.redis_url, runtime.config.data_dir) as bunk:
        host = Host(bunk)
        worker = host.worker()
        task = asyncio.create_task(worker.run())
        yield host
        worker.stop()
        await task


async def change(host: Host, bits: int) -> str:
    jobs = Jobs(host.bunk.connection)
    job = await jobs.create("kv_bits", "m", {"bits": bits}, by="test", now_s=time.time(), lock="model:m")
    return job.id


async def test_twenty_chats_outlive_jobs_that_change_16_4_8(host: Host, workers: Workers) -> None:
    workers.start()
    connection = host.bunk.connection
    assert (await job_when(connection, await change(host, 16))).state is JobState.SUCCEEDED
    chats = [await host.bunk.submit(f"Tell me about the number {n}.", max_tokens=24) for n in range(20)]
    answers = asyncio.gather(*(host.bunk.answer(chat.chat) for chat in chats))
    for bits in (4, 8):
        done = await job_when(connection, await change(host, bits))
        assert (done.state, done.error) == (JobState.SUCCEEDED, None)
        done_result: Any = done.result
        assert done_result["kv_bits"] == bits
        assert done_result["plan"]["how"] == "replace"
    ends = [end for _, end in await answers]
    assert {end.finish for end in ends} <= {Finish.STOP, Finish.LENGTH}
    assert await host.bunk.desk.reservations() == []


async def test_a_change_that_fails_is_rolled_back_and_says_so(
    host: Host, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.start()
    host.broken.add(KvBits.FOUR)
    monkeypatch.setattr("services.worker.kv_change._replace", _as_if_it_did_not_fit)
    failed = await job_when(host.bunk.connection, await change(host, 4))
    assert failed.state is JobState.ROLLED_BACK
    assert "goes on with 8 bits" in (failed.error or "")
    failed_result: Any = failed.result
    assert failed_result["kv_bits"] == 8
    assert await Jobs(host.bunk.connection).holder("model:m") is None
    _, end = await host.bunk.answer((await host.bunk.submit("Still there?", max_tokens=8)).chat)
    assert end.finish in (Finish.STOP, Finish.LENGTH)


async def _as_if_it_did_not_fit(context: object, fresh: object, bits: KvBits) -> None:
    from services.worker import kv_change

    assert isinstance(context, kv_change.ChangeContext)
    await kv_change._drain(context, bits)


async def test_a_job_whose_celery_worker_is_killed_goes_on_where_it_was(host: Host, workers: Workers) -> None:
    first = workers.start()
    connection, jobs = host.bunk.connection, Jobs(host.bunk.connection)
    story = await host.bunk.submit("Tell me a long story.", max_tokens=120)
    await host.bunk.entries(story.chat, until_text=2)
    job_id = await change(host, 4)
    await job_when(connection, job_id, lambda job: job.state is JobState.RUNNING and job.progress >= 0.2)
    first.kill()
    first.wait()
    await long_silent(connection, job_id)
    workers.start()
    done = await job_when(connection, job_id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
    assert (await host.commands.desired("m")).kv_bits == 4
    assert (await host.bunk.answer(story.chat))[1].finish in (Finish.STOP, Finish.LENGTH)
    assert await jobs.holder("model:m") is None


async def test_bits_are_measured_against_the_16_bit_cache(host: Host, workers: Workers) -> None:
    workers.start()
    args: dict[str, JsonValue] = {"model": "m", "bits": [16, 8, 4], "transcripts": None, "tokens_max": 256}
    job = await Jobs(host.bunk.connection).create("quality", "m", args, by="test", now_s=time.time())
    done = await job_when(host.bunk.connection, job.id)
    assert (done.state, done.error) == (JobState.SUCCEEDED, None)
    rows = {row.bits: row for row in await measured(host.bunk.connection, "m")}
    assert set(rows) == {16, 8, 4}
    assert (rows[16].kl, rows[16].top1_agrees, rows[16].perplexity_change) == (0.0, 1.0, 0.0)
    assert 0 < rows[8].kl < rows[4].kl
    assert "bundled" in rows[4].source
