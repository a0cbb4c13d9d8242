"""/health: this process runs. /ready: a chat sent here now has a chance. /metrics: Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from dataclasses import asdict

import structlog

from gateway.call import Call
from gateway.desk.waiting import waiting_visitors
from gateway.metrics import CONTENT_TYPE
from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from services.config.urls import is_loopback
from services.contracts.engines import EngineReport
from services.store.connection import QueueUnavailable
from services.store.deliveries import DeliveryStore

SERVING = ("ready", "asleep")

log = structlog.get_logger()


async def health(_: Gateway, call: Call) -> None:
    """200 as long as the event loop turns."""
    await call.respond_json({"status": "ok"})


async def ready(gateway: Gateway, call: Call) -> None:
    """200 when Redis answers, a scheduler leads, at least one model serves and bots have their knowledge; 503 with what
    is missing."""
    missing: list[str] = []
    models: dict[str, str] = {}
    if gateway.draining:
        missing.append("draining")
    else:
        try:
            with gateway.breaker:
                if gateway.directory.version == 0:
                    missing.append("registry")
                if await gateway.submissions.snapshot() is None:
                    missing.append("scheduler")
                engines = await gateway.submissions.engines()
                models = {name: _state(gateway, seen.report) for name, seen in engines.items()}
                queued = await gateway.submissions.queued_models(models)
                models |= dict.fromkeys(models.keys() - queued, "no_queue")
            if not any(state in SERVING for state in models.values()):
                missing.append("models")
        except QueueUnavailable:
            missing.append("redis")
        if gateway.directory.version and not gateway.knowledge.ready():
            missing.append("knowledge")
    body = {"ready": not missing, "missing": missing, "models": models}
    counts = asdict(gateway.knowledge.counts())
    if any(counts.values()):
        body["knowledge"] = counts
    await call.respond_json(body, 503 if missing else 200)


def _state(gateway: Gateway, report: EngineReport) -> str:
    """What an engine last said of itself, unless that is too long ago to count."""
    fresh = gateway.clock() - report.at_s <= gateway.config.scheduler.telemetry_age_s_max
    return report.state.value if fresh else "silent"


async def metrics(gateway: Gateway, call: Call) -> None:
    """This process's counters, and the host's state as the scheduler last saw it. Raises Refused, from other machines
    without the metrics key."""
    if not (_is_local(call) or await asyncio.to_thread(_has_metrics_key, gateway, call)):
        words = "Metrics need the key of gateway.metrics_key_file, unless they are read from this machine."
        raise Refused(Code.INVALID_API_KEY, words, headers=((b"www-authenticate", b"Bearer"),))
    host = gateway.metrics.host
    host.snapshot = host.handovers_failed = host.visitors = None
    with contextlib.suppress(QueueUnavailable), gateway.breaker:
        host.snapshot = await gateway.submissions.snapshot()
        host.handovers_failed = await DeliveryStore(gateway.connection).failed_count()
        host.visitors = await waiting_visitors(gateway.connection, gateway.directory.registry, gateway.clock())
    await call.respond(200, gateway.metrics.text(), [(b"content-type", CONTENT_TYPE.encode())])


def _is_local(call: Call) -> bool:
    """Whether a program of this machine asks, and not a proxy here for somebody elsewhere."""
    client = call.scope.get("client")
    proxied = call.header(b"x-forwarded-for") or call.header(b"forwarded")
    return client is not None and is_loopback(client[0]) and not proxied


def _has_metrics_key(gateway: Gateway, call: Call) -> bool:
    """Whether the caller presents the key in `gateway.metrics_key_file`."""
    path = gateway.config.gateway.metrics_key_file
    scheme, _, given = (call.header(b"authorization") or "").partition(" ")
    if path is None or scheme.lower() != "bearer":
        return False
    try:
        key = path.read_text().strip()
    except OSError as error:
        log.warning("metrics.key_not_read", path=str(path), why=str(error))
        return False
    return bool(key) and hmac.compare_digest(given.strip().encode(), key.encode())
