"""Job: a load test of this host, from a scenario's YAML.

It talks to this host's own gateway, whatever `url` says, with keys that it makes for the scenario's tenants and revokes
at the end; they expire by themselves should it be killed. A scenario names tenants and bots that exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.audit import Note
from services.edit import edit, with_tenant
from services.jobs.run import Context, JobFailed
from services.jobs.scenario import BadScenario, parse
from services.loadtest.cli import summary
from services.loadtest.http import Http
from services.loadtest.record import ChatRecord, RunWriter, read_run
from services.loadtest.runner import Runner
from services.loadtest.scenario import Scenario
from services.registry import KeyRecord, Registry, digest, new_key

KEY_MARGIN_S = 300.0
LOOK_S = 0.5
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  (recognised here, not bound)


async def run(context: Context) -> dict[str, Any]:
    """Args: scenario. Result: the figures, and where the records are. Raises JobFailed, Cancelled."""
    try:
        scenario = parse(str(context.job.args["scenario"]))
    except BadScenario as error:
        raise JobFailed(str(error)) from error
    folder = context.runtime.config.data_dir / "loadtests" / context.job.id
    async with _keys(context, scenario) as keys:
        tenants = [
            {**tenant.model_dump(mode="python", exclude={"key", "key_env"}), "key": keys[tenant.name]}
            for tenant in scenario.tenants
        ]
        plan = Scenario.model_validate({**scenario.model_dump(), "url": _url(context), "tenants": tenants})
        path = folder / "run.jsonl"
        public = plan.model_dump(mode="json", exclude={"tenants": {"__all__": {"key"}}})
        http, writer = Http(plan.url, time.perf_counter), RunWriter(path, {"scenario": public, "url": plan.url})
        try:
            await _watched(context, plan, http, writer)
        finally:
            http.close()
            writer.close()
    return {"figures": summary(read_run(path)), "records": str(path)}


async def _watched(context: Context, plan: Scenario, http: Http, writer: RunWriter) -> None:
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
            await context.say(part, f"{done} chats done")
            await asyncio.wait([task], timeout=LOOK_S)
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _url(context: Context) -> str:
    gateway = context.runtime.config.gateway
    host = "127.0.0.1" if gateway.host in ANY_ADDRESS else gateway.host
    return f"http://{f'[{host}]' if ':' in host else host}:{gateway.port}/v1"


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
            stored = KeyRecord(
                id=key_id,
                digest=digest(key, context.runtime.secrets.pepper),
                created_s=now_s,
                expires_s=until_s,
            )
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
