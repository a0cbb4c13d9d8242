"""Jobs: start, look at, cancel, do again; carry out what autotune proposes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import Query, status
from pydantic import TypeAdapter

from gateway.admin.auth import Actor, Operator, Viewer
from gateway.admin.common import Host, bot_of, note, noted, routes
from gateway.admin.errors import BadValue, Conflict, NotFound
from gateway.admin.schemas import Applied, Job, JobKind, JobNew, JobState, Page
from gateway.state import Gateway
from services.contracts.bot_tests import BotTestReport
from services.contracts.scenario import BadScenario, parse_scenario
from services.planner.autotune import AutotuneResult, apply
from services.store.bot_tests import BotTestStore
from services.store.job_args import BotTestArgs, JobArgs, LoadtestArgs, QualityArgs, RollupArgs
from services.store.jobs import JOBS_MAX, Jobs, Locked, StoredJob
from services.store.registry_edit import read_registry
from services.store.usage_report import day_before

router = routes("jobs")


@router.get("/jobs")
async def index(
    host: Host,
    _: Viewer,
    state: Annotated[JobState | None, Query()] = None,
    kind: Annotated[JobKind | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Page[Job]:
    """The newest jobs first."""
    found = [
        job
        for job in await Jobs(host.connection).recent(JOBS_MAX)
        if (state is None or job.state == state) and (kind is None or job.kind == kind)
    ]
    return Page(items=[shown(job) for job in found[:limit]], more=len(found) > limit)


@router.post("/jobs", status_code=status.HTTP_202_ACCEPTED)
async def create(new: JobNew, host: Host, actor: Operator) -> Job:
    """Measure quality, run a test set, test under load, roll a day up, or have KV bits proposed."""
    target, alone = "", ""
    match new.args:
        case QualityArgs():
            target = new.args.model
            _check_model(host, target)
        case BotTestArgs():
            target = new.args.bot
            alone = bot_of(await read_registry(host.connection), *target.split("/")).model  # it may change its KV bits
            if not (await BotTestStore(host.connection).questions(target)).questions:
                raise Conflict(f"{target} has no test set. PUT one to /bots/{target}/tests.", code="no_tests")
        case LoadtestArgs():
            await _check_scenario(new.args.scenario)
        case RollupArgs() if new.args.day is not None:
            target = new.args.day
            _check_day(target)
    try:
        job = await started(host, actor, new.kind, target, new.args, lock=f"{new.kind}:{alone or target}")
    except Locked as error:
        raise job_running(new.kind, error.job) from None
    await noted(host, note(host, actor, "job.create", job.id, after={"kind": job.kind, "target": job.target}))
    return shown(job)


@router.get("/jobs/{job}")
async def show(job: str, host: Host, _: Viewer) -> Job:
    """One job."""
    return shown(await _found(host, job))


@router.get("/jobs/{job}/report")
async def report(job: str, host: Host, _: Viewer) -> BotTestReport:
    """What came of a run of a bot's test set: each question at each KV bits."""
    found = await BotTestStore(host.connection).report(job)
    if found is None:
        raise NotFound(f"The job {job!r} has no report.", param="job")
    return found


@router.post("/jobs/{job}/cancel")
async def cancel(job: str, host: Host, actor: Operator) -> Job:
    """Ask a job to stop. It does at its next safe point; what it has begun it ends or undoes."""
    found = await _found(host, job)
    if not found.open:
        raise Conflict(f"The job has ended: {found.state.value}.", code="has_ended")
    await Jobs(host.connection).cancel(found, host.clock())
    await noted(host, note(host, actor, "job.cancel", job))
    return shown(await _found(host, job))


@router.post("/jobs/{job}/retry", status_code=status.HTTP_202_ACCEPTED)
async def retry(job: str, host: Host, actor: Operator) -> Job:
    """The same again, as a new job."""
    old = await _found(host, job)
    if old.open:
        raise job_running(old.target or old.kind, old.id)
    try:
        again = await Jobs(host.connection).create(
            old.kind, old.target, old.args, by=actor.name, now_s=host.clock(), lock=old.lock, retry_of=old.id
        )
    except Locked as error:
        raise job_running(old.target or old.kind, error.job) from None
    await noted(host, note(host, actor, "job.retry", job, after={"job": again.id}))
    return shown(again)


@router.post("/jobs/{job}/apply")
async def carry_out(job: str, host: Host, actor: Operator) -> Applied:
    """Carry out an autotune job's proposals, but for bots whose policy or model was changed since."""
    found = await _found(host, job)
    if found.kind != "autotune" or found.result is None:
        raise Conflict("This job has no proposals.", code="no_proposals")
    proposed = TypeAdapter(AutotuneResult).validate_python(found.result).proposals
    changed, left = await apply(host.connection, proposed, note(host, actor, "bot.kv", ""))
    return Applied(job=job, changed=changed, left=left)


async def started(host: Gateway, actor: Actor, kind: str, target: str, args: JobArgs, *, lock: str) -> StoredJob:
    """A new job. Raises Locked, QueueUnavailable."""
    return await Jobs(host.connection).create(kind, target, args.stored(), by=actor.name, now_s=host.clock(), lock=lock)


def job_running(what: str, job: str) -> Conflict:
    """Another job is in the way."""
    return Conflict(f"Another job is changing {what!r}: {job}.", code="job_running", job=job)


def shown(job: StoredJob) -> Job:
    """As answers show it: a load test's scenario and a measurement's text are not repeated."""
    args = {name: value for name, value in job.args.items() if name not in ("scenario", "transcripts")}
    progress = min(1.0, max(0.0, job.progress))
    return Job.model_validate(asdict(job) | {"args": args, "state": job.state.value, "progress": progress})


async def _found(host: Gateway, job: str) -> StoredJob:
    found = await Jobs(host.connection).get(job)
    if found is None:
        raise NotFound(f"There is no job {job!r}.", param="job")
    return found


def _check_model(host: Gateway, model: str) -> None:
    config = host.config.models.get(model)
    if config is None:
        raise BadValue(f"There is no model {model!r}.", param="args.model")
    if not config.kind.measures_quality:
        raise BadValue("Quality is measured with llama.cpp, which reads GGUF files only.", param="args.model")


async def _check_scenario(text: str) -> None:
    try:
        await asyncio.to_thread(parse_scenario, text)
    except BadScenario as error:
        raise BadValue(f"The scenario: {error}.", param="args.scenario") from None


def _check_day(day: str) -> None:
    try:
        day_before(day, 0)
    except ValueError as error:
        raise BadValue(f"{day!r} is not a day: {error}.", param="args.day") from None
