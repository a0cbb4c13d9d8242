"""`python -m services.jobs CONFIG`: run a Celery worker until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from threading import Thread
from typing import cast

import structlog
from celery import signals
from celery.beat import EmbeddedService, Scheduler

from services.config.host_secrets import SecretsError
from services.config.schema import ConfigError
from services.jobs.celery_app import CONCURRENCY, application
from services.jobs.tasks import register
from services.process import logs
from services.store import redis_keys as keys
from services.store.connection import QueueUnavailable
from services.store.runtime import PATIENCE_S, Runtime, open_runtime

log = structlog.get_logger()


def serve(runtime: Runtime) -> None:
    """Run a Celery worker, with Celery's schedule in a thread.

    Threads are enough: jobs wait for others most of the time, and what computes is a process of its own. Celery would
    fork its schedule into a process, which a killed worker leaves behind.
    """
    app = application(runtime)
    register(app, runtime)
    beat = cast(Thread, EmbeddedService(app, thread=True, scheduler_cls=Scheduler))  # without a file
    signals.setup_logging.connect(_keep_logging, weak=False)
    signals.worker_ready.connect(lambda **_: beat.start(), weak=False)
    argv = ["worker", "--pool=threads", f"--concurrency={CONCURRENCY}", f"--queues={keys.CELERY_JOBS}"]
    argv += [f"--hostname=jobs-{os.getpid()}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    app.worker_main([*argv, "--loglevel=WARNING"])


def _keep_logging(**_: object) -> None:
    """A receiver of this signal keeps Celery from setting up logs of its own."""


def main() -> int:
    """Exit status 2 when the configuration is wrong."""
    logs.setup("jobs")
    try:
        runtime = open_runtime(Path(sys.argv[1]))
    except (ConfigError, SecretsError) as error:
        log.error("jobs.cannot_start", why=str(error))
        return 2
    try:
        asyncio.run(_redis_answers(runtime))
    except QueueUnavailable as error:
        log.error("jobs.cannot_start", why=str(error))
        return 1
    serve(runtime)
    return 0


async def _redis_answers(runtime: Runtime) -> None:
    """Wait for Redis: Celery ends at once where Redis refuses writes, so a full disk would make the host give up."""
    async with runtime.connect(PATIENCE_S):
        return


if __name__ == "__main__":
    sys.exit(main())
