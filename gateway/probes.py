"""/health: this process runs. /ready: a chat sent here now has a chance. /metrics: Prometheus."""

from __future__ import annotations

import contextlib

from gateway.call import Call
from gateway.metrics import CONTENT_TYPE
from gateway.state import Gateway
from services.contracts.engines import EngineReport
from services.store.connection import QueueUnavailable
from services.store.deliveries import DeliveryStore

SERVING = ("ready", "asleep")


async def health(_: Gateway, call: Call) -> None:
    """200 as long as the event loop turns."""
    await call.respond_json({"status": "ok"})


async def ready(gateway: Gateway, call: Call) -> None:
    """200 when Redis answers, a scheduler leads and at least one model serves; 503 with what is missing."""
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
    body = {"ready": not missing, "missing": missing, "models": models}
    await call.respond_json(body, 503 if missing else 200)


def _state(gateway: Gateway, report: EngineReport) -> str:
    """What an engine last said of itself, unless that is too long ago to count."""
    fresh = gateway.clock() - report.at_s <= gateway.config.scheduler.telemetry_age_s_max
    return report.state.value if fresh else "silent"


async def metrics(gateway: Gateway, call: Call) -> None:
    """This process's counters, and the host's state as the scheduler last saw it."""
    host = gateway.metrics.host
    host.snapshot = host.handovers_failed = None
    with contextlib.suppress(QueueUnavailable), gateway.breaker:
        host.snapshot = await gateway.submissions.snapshot()
        host.handovers_failed = await DeliveryStore(gateway.connection).failed_count()
    await call.respond(200, gateway.metrics.text(), [(b"content-type", CONTENT_TYPE.encode())])
