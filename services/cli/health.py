"""`bunkhouse health CONFIG PART`: one part's health, for a container's health check."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx

from services.cli.errors import fail, out, reported_errors
from services.contracts.engines import EngineState
from services.host.mps.daemon import daemon_trouble
from services.store.mps_states import read_mps_states
from services.store.runtime import Runtime, open_runtime
from services.store.submission import SubmissionClient

REPORT_AGE_S_MAX = 15.0  # a worker reports about once a second
HTTP_S_MAX = 5.0
PING_S = 3.0
MODEL = "model "


def run(config_path: Path, part: str) -> None:
    """`part`: gateway, scheduler, jobs, mps, or `model NAME`. Exit code 1, with the reason, when it is unhealthy."""
    with reported_errors():
        runtime = open_runtime(config_path)
        trouble = asyncio.run(_trouble(runtime, part))
    if trouble:
        fail(f"{part}: {trouble}")
    out.print(f"{part}: well", highlight=False)


async def _trouble(runtime: Runtime, part: str) -> str | None:
    if part == "gateway":
        return await _gateway(runtime.config.gateway.port)
    if part == "jobs":
        return await asyncio.to_thread(_jobs, runtime)
    async with runtime.connect() as connection:
        if part == "mps":
            return await daemon_trouble(runtime.config, await read_mps_states(connection))
        door = SubmissionClient(connection)
        if part == "scheduler":
            return None if await door.snapshot() is not None else "no scheduler holds the lease"
        return await _model(runtime, door, part.removeprefix(MODEL))


async def _model(runtime: Runtime, door: SubmissionClient, name: str) -> str | None:
    if name not in runtime.config.models:
        models = ", ".join(MODEL + each for each in runtime.config.models)
        return f"no such part; the parts are gateway, scheduler, jobs, mps, {models}"
    seen = (await door.engines()).get(name)
    if seen is None:
        return "its worker has not reported yet"
    silent_s = time.time() - seen.report.at_s
    if silent_s > REPORT_AGE_S_MAX:
        return f"its worker has been silent for {silent_s:.0f} s"
    return "its engine is down" if seen.report.state is EngineState.DOWN else None


async def _gateway(port: int) -> str | None:
    try:
        async with httpx.AsyncClient(timeout=HTTP_S_MAX, trust_env=False) as http:
            answer = await http.get(f"http://127.0.0.1:{port}/health")
    except httpx.TransportError as error:
        return f"{error or type(error).__name__}"
    return None if answer.status_code == httpx.codes.OK else f"HTTP {answer.status_code}"


def _jobs(runtime: Runtime) -> str | None:
    from kombu.exceptions import OperationalError  # noqa: PLC0415  (Celery is slow to import; this part alone needs it)

    from services.jobs.celery_app import application  # noqa: PLC0415

    try:
        answers = application(runtime).control.ping(timeout=PING_S)
    except OperationalError as error:
        return f"Redis: {error}"
    return None if answers else "no Celery worker answers"
