"""A job's message, as Celery finds it in Redis.

Whoever makes a job stores its message in the same atomic step, so the message is built here, without Celery: its client
blocks, and a process that streams tokens must not load it. The format is Celery's message protocol, version 2, in
Kombu's envelope for Redis. The delivery tag is the job's id: ``redis_keys.CELERY_UNACKED`` shows what a worker has.
"""

from __future__ import annotations

import base64

import orjson

from services.store import redis_keys as keys


def task_name(kind: str) -> str:
    """The Celery task that does jobs of `kind`."""
    return f"bunkhouse.{kind}"


def job_message(kind: str, job_id: str) -> bytes:
    """One message: do the job `job_id`. The job itself says the rest."""
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    headers = {
        **{"lang": "py", "task": task_name(kind), "id": job_id, "root_id": job_id, "argsrepr": f"('{job_id}',)"},
        **{"retries": 0, "timelimit": [None, None], "ignore_result": True, "kwargsrepr": "{}"},
        **dict.fromkeys(("parent_id", "group", "eta", "expires", "shadow", "origin")),
    }
    properties = {
        **{"correlation_id": job_id, "delivery_tag": job_id, "delivery_mode": 2, "priority": 0},
        "delivery_info": {"exchange": "", "routing_key": keys.CELERY_JOBS},
        "body_encoding": "base64",
    }
    return orjson.dumps(
        {
            "body": base64.b64encode(orjson.dumps(([job_id], {}, embedded))).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
