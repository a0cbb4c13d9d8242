"""The Celery application on the host's own Redis."""

from __future__ import annotations

from urllib.parse import quote, urlsplit, urlunsplit

from celery import Celery

from services.store import redis_keys as keys
from services.store.celery_message import task_name
from services.store.runtime import Runtime

# A worker that was silent for so long has lost its messages to others. A running job's heartbeat renews its own.
VISIBILITY_S = 20
RESTORE_S = 5  # between two looks for such messages
CONCURRENCY = 4
SCHEDULE_S = {"resend_lost": 30, "roll_up_usage": 600, "propose_kv_bits": 3600}


def broker_url(url: str, password: str | None) -> str:
    """redis-py's URL as Kombu wants it: unix:///path becomes redis+socket://:password@/path."""
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
            "unacked_restore_interval": RESTORE_S,
            "unacked_restore_throttle": 1,
            "socket_timeout": runtime.config.redis.timeout_s * 5,  # above Kombu's blocking reads
            "socket_connect_timeout": runtime.config.redis.timeout_s,
            "max_retries": 1,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=keys.CELERY_JOBS,
        task_acks_late=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_concurrency=CONCURRENCY,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        task_send_sent_event=False,
        beat_schedule={
            name: {"task": task_name(name), "schedule": every_s, "options": {"expires": every_s}}
            for name, every_s in SCHEDULE_S.items()
        },
        timezone="UTC",
    )
    return app
