"""The Celery application on the host's own Redis, and how a job gets to it.

Messages carry a job's id and nothing else: what a job is, and how far, is in `store`. Whoever makes a job stores it and
the workers' beat sends it: no gateway needs Celery. A message may be lost or come twice: the beat sends a lost one
again, an attempt's number fences a second one.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlsplit, urlunsplit

from celery import Celery
from celery.exceptions import OperationalError as CeleryOperationalError
from kombu.exceptions import OperationalError

from services.store import redis_keys as keys
from services.store.connection import QueueUnavailable
from services.store.runtime import Runtime

QUEUE = "jobs"
TASK = "bunkhouse.job"
JOB_S_MAX = 4 * 3600  # the longest job
VISIBILITY_S = JOB_S_MAX + 1800  # an unacknowledged message comes back after it; the sweep is sooner
CONCURRENCY = 4


def broker_url(url: str, password: str | None) -> str:
    """redis-py's URL as kombu wants it: unix:///path becomes redis+socket://:password@/path."""
    parts = urlsplit(url)
    login = f":{quote(password, safe='')}@" if password else ""
    if parts.scheme == "unix":
        return f"redis+socket://{login}{quote(parts.path)}"
    host = parts.netloc.rpartition("@")[2] if password else parts.netloc
    return urlunsplit((parts.scheme, f"{login}{host}", parts.path, parts.query, ""))


def application(runtime: Runtime) -> Celery:
    """The Celery application, without tasks. Opens no connection."""
    app = Celery("bunkhouse", set_as_current=False)
    app.conf.update(
        broker_url=broker_url(runtime.redis_url, runtime.redis_password),
        broker_transport_options={
            "global_keyprefix": keys.CELERY_PREFIX,
            "visibility_timeout": VISIBILITY_S,
            "socket_timeout": runtime.config.redis.timeout_s * 5,  # above kombu's blocking reads
            "socket_connect_timeout": runtime.config.redis.timeout_s,
            "max_retries": 1,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_concurrency=CONCURRENCY,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        timezone="UTC",
    )
    return app


class Sender:
    """Puts jobs' ids into Celery's queue, from asyncio. Celery's own calls block, so they have a thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._app = application(runtime)

    async def send(self, job_id: str) -> None:
        """Raises QueueUnavailable; the job is stored then, and the sweep sends it."""
        try:
            await asyncio.to_thread(self._send, job_id)
        except (OperationalError, CeleryOperationalError, OSError) as error:
            raise QueueUnavailable(f"Celery: {error}") from error

    def _send(self, job_id: str) -> None:
        self._app.send_task(TASK, (job_id,), queue=QUEUE, task_id=job_id, retry=False)
