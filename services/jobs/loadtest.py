"""Job: a load test of this host, from a scenario's YAML.

It sends chats to this host's own gateway, not to the scenario's `url`: on this machine, or at BUNKHOUSE_GATEWAY_URL. It
makes keys for the scenario's tenants and revokes them at the end; if it is killed, they expire. Tenants and bots of the
scenario must exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from services.config.api_keys import digest, new_key
from services.config.schema import GatewayConfig
from services.contracts.scenario import BadScenario, Scenario, parse_scenario
from services.evidence.loadtest.figures import summary
from services.evidence.loadtest.record import ChatRecord, Run, RunWriter, read_run
from services.evidence.loadtest.runner import Runner
from services.http_stream.client import StreamClient
from services.jobs.attempt import Context, JobFailed, JobResult
from services.process.ports import url_host
from services.store.audit_log import Note
from services.store.job_args import LoadtestArgs
from services.store.registry import KeyRecord, Registry
from services.store.registry_edit import edit, with_tenant
from services.store.runtime import GATEWAY_URL_ENV

KEY_MARGIN_S = 300.0
LOOK_S = 0.5


async def run(context: Context) -> JobResult:
    """Args: LoadtestArgs. Result: the figures, and where the records are. Raises JobFailed, Cancelled.

    Chats that are refused are figures; that none reached the gateway is a failure.
    """
    try:
        scenario = parse_scenario(LoadtestArgs.model_validate(context.job.args).scenario)
    except BadScenario as error:
        raise JobFailed(str(error)) from error
    folder = context.runtime.config.data_dir / "loadtests" / context.job.id
    async with _keys(context, scenario) as keys:
        tenants = [
            {**tenant.model_dump(mode="python", exclude={"key", "key_env"}), "key": keys[tenant.name]}
            for tenant in scenario.tenants
        ]
        url = gateway_url(context.runtime.config.gateway)
        plan = Scenario.model_validate({**scenario.model_dump(), "url": url, "tenants": tenants})
        path = folder / "run.jsonl"
        public = plan.model_dump(mode="json", exclude={"tenants": {"__all__": {"key"}}})
        http, writer = StreamClient(plan.url, time.perf_counter), RunWriter(path, {"scenario": public, "url": plan.url})
        try:
            await _watched(context, plan, http, writer)
        finally:
            http.close()
            writer.close()
    done = read_run(path)
    if done.chats and not http.reached:
        raise JobFailed(_reached_nobody(done))
    return {"figures": summary(done).as_json(), "records": str(path)}


async def _watched(context: Context, plan: Scenario, http: StreamClient, writer: RunWriter) -> None:
    done = 0

    def record(chat: ChatRecord) -> None:
        nonlocal done
        done += 1
        writer.add(chat)

    runner = Runner(plan, http, time.perf_counter, run_id=secrets.token_hex(4), on_record=record)
    task = asyncio.create_task(runner.run())
    begin_s = time.monotonic()
    try:
        while not task.done():
            part = min(0.99, (time.monotonic() - begin_s) / (plan.duration_s + 1.0))
            await context.report(part, f"{done} chats done")
            await asyncio.wait([task], timeout=LOOK_S)
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def gateway_url(gateway: GatewayConfig, environ: Mapping[str, str] = os.environ) -> str:
    """The API's base as this process reaches it."""
    if named := environ.get(GATEWAY_URL_ENV):
        return f"{named.rstrip('/')}/v1"
    return f"http://{url_host(gateway.host)}:{gateway.port}/v1"


def _reached_nobody(run: Run) -> str:
    reasons = Counter(chat.reason for chat in run.chats).most_common()
    said = ", ".join(f"{number} x {reason}" for reason, number in reasons)
    return f"No chat reached the gateway at {run.head['url']} ({said}). {GATEWAY_URL_ENV} says where it is."


@asynccontextmanager
async def _keys(context: Context, scenario: Scenario) -> AsyncIterator[dict[str, str]]:
    """A key for each tenant of the scenario, for as long as this lasts. Raises JobFailed for an unknown tenant."""
    made = {tenant.name: new_key() for tenant in scenario.tenants}
    key_id = f"loadtest-{context.job.id}"
    now_s = context.clock()
    until_s = now_s + scenario.duration_s + scenario.drain_s + KEY_MARGIN_S

    def add(registry: Registry) -> tuple[Registry, Note]:
        for name, key in made.items():
            record = registry.tenants.get(name)
            if record is None:
                raise JobFailed(f"The scenario's tenant {name!r} does not exist here.")
            hashed = digest(key, context.runtime.secrets.pepper)
            stored = KeyRecord(id=key_id, digest=hashed, created_s=now_s, expires_s=until_s)
            kept = tuple(known for known in record.keys if known.id != key_id)
            registry = with_tenant(registry, name, record.model_copy(update={"keys": (*kept, stored)}))
        return registry, _note(context, "key.create", sorted(made))

    def remove(registry: Registry) -> tuple[Registry, Note]:
        for name in made:
            if (record := registry.tenants.get(name)) is not None:
                kept = tuple(known for known in record.keys if known.id != key_id)
                registry = with_tenant(registry, name, record.model_copy(update={"keys": kept}))
        return registry, _note(context, "key.revoke", sorted(made))

    await edit(context.connection, add)
    try:
        yield made
    finally:
        await edit(context.connection, remove)


def _note(context: Context, action: str, tenants: list[str]) -> Note:
    who = context.job.by or context.job.id
    return Note(context.clock(), who, "job", action, ", ".join(tenants), context.job.id)
