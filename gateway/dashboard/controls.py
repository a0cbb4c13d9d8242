"""What the dashboard changes, and the pages of tenants and jobs. All of it is the admin API's doing.

GET  /dashboard/models/{model}/kv/{bits}      the dry run
POST /dashboard/models/{model}/kv/{bits}      the change itself
GET  /dashboard/tenants                       tenants and usage; /dashboard/usage.csv
GET  /dashboard/jobs, /dashboard/parts/jobs   jobs
POST /dashboard/jobs/{job}/{cancel|retry}
GET  /dashboard/jobs/{job}/proposals, POST .../apply
GET  /dashboard/jobs/{job}/report[.json]     a run of a bot's test set
POST /dashboard/jobs/new/{quality|bot_test|autotune}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from gateway.admin.schemas import Applied, Bot, HandoverFailed, Job, Model, ModelKvAnswer, Page, Tenant, UsageReport
from gateway.dashboard.jobs import JobRow, result_of, row
from gateway.dashboard.logins import Login
from gateway.dashboard.render import page
from gateway.dashboard.router import Dashboard, PageRoute, form_of
from gateway.dashboard.security import HEADERS, check_csrf, is_secure
from gateway.dashboard.usage import UsagePage
from gateway.desk.mail import replies_key
from gateway.outcomes import Code, Refused
from gateway.widget.sites import WidgetSite, webhook_secret
from gateway.widget.visitors import visitor_secret
from services.contracts.bot_tests import BotTestReport
from services.contracts.engine_kinds import ENGINE_KINDS
from services.planner.autotune import AutotuneResult

JOBS_MAX = 50
DAYS = 14

Bits = Annotated[int, Path(ge=4, le=16)]


def add(routes: APIRouter, dashboard: Dashboard) -> None:
    """All pages that change things."""
    _kv(routes, dashboard)
    _tenants(routes, dashboard)
    _jobs(routes, dashboard)


def router(dashboard: Dashboard) -> APIRouter:
    """A router of its own for them."""
    routes = APIRouter(route_class=PageRoute, include_in_schema=False)
    add(routes, dashboard)
    return routes


async def changing(dashboard: Dashboard, request: Request) -> Login:
    """Who changes something, with the page's own token and a role that may. Every route that changes calls this.

    Raises LoginNeeded, Refused, QueueUnavailable.
    """
    session = await dashboard.session(request)
    check_csrf(request, session)
    if not session.operates:
        raise Refused(Code.ROLE_TOO_LOW, "Your role can view but not change anything. This needs the role operator.")
    return session


def _kv(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.get("/dashboard/models/{model}/kv/{bits}")
    async def dry_run(request: Request, model: str, bits: Bits) -> Response:
        session = await dashboard.session(request)
        path = f"/models/{quote(model, safe='')}"
        if not session.operates:  # the admin API refuses a viewer even the dry run
            return page(
                "parts/problem.html",
                words="Your role can view but not change KV bits. Changing them needs the role operator.",
                job=None,
            )
        body = {"bits": bits, "dry_run": True}
        answer = await dashboard.admin.ask(session.key, "PUT", f"{path}/kv", ModelKvAnswer, body=body)
        return page("parts/dry_run.html", model=model, plan=answer.plan, bits=bits)

    @routes.post("/dashboard/models/{model}/kv/{bits}")
    async def change(request: Request, model: str, bits: Bits) -> Response:
        session = await changing(dashboard, request)
        path = f"/models/{quote(model, safe='')}/kv"
        body = {"bits": bits, "dry_run": False}
        answer = await dashboard.admin.ask(session.key, "PUT", path, ModelKvAnswer, body=body)
        return page("parts/changed.html", model=model, bits=bits, done=answer.done, job=answer.job)


def _tenants(routes: APIRouter, dashboard: Dashboard) -> None:
    @routes.get("/dashboard/tenants")
    async def tenants(request: Request) -> Response:
        session = await dashboard.session(request)
        tenants = (await dashboard.admin.get(session.key, "/tenants", Page[Tenant])).items
        first, last = _days(dashboard.gateway.clock())
        report = await dashboard.admin.get(session.key, "/usage", UsageReport, **{"from": first, "to": last})
        return page(
            "tenants.html",
            page="Tenants",
            session=session,
            tenants=tenants,
            usage=UsagePage.of(report.rows, first, last, [tenant.name for tenant in tenants]),
            failed=(await dashboard.admin.get(session.key, "/handovers/failed", Page[HandoverFailed])).items,
            widgets=[_embedded(dashboard, site, _base(request)) for site in dashboard.widgets.sites.all()],
        )

    @routes.post("/dashboard/handovers/{handover}/resend")
    async def resend(request: Request, handover: str) -> Response:
        session = await changing(dashboard, request)
        await dashboard.admin.ask(session.key, "POST", f"/handovers/{quote(handover, safe='')}/resend", NoneType)
        return HTMLResponse('<span class="good" role="status">Sent again</span>', 200, HEADERS)

    @routes.get("/dashboard/usage.csv")
    async def usage_csv(request: Request) -> Response:
        session = await dashboard.session(request)
        first, last = _days(dashboard.gateway.clock())
        body = await dashboard.admin.text(session.key, "/usage", **{"from": first, "to": last, "format": "csv"})
        headers = HEADERS | {"content-disposition": f'attachment; filename="usage-{first}-{last}.csv"'}
        return Response(body, media_type="text/csv", headers=headers)


def _jobs(routes: APIRouter, dashboard: Dashboard) -> None:
    async def listed(session: Login) -> list[JobRow]:
        jobs = await dashboard.admin.get(session.key, "/jobs", Page[Job], limit=str(JOBS_MAX))
        return [row(job) for job in jobs.items]

    @routes.get("/dashboard/jobs")
    async def jobs(request: Request) -> Response:
        session = await dashboard.session(request)
        models = await dashboard.admin.get(session.key, "/models", Page[Model])
        measurable = [model for model in models.items if ENGINE_KINDS[model.engine].measures_quality]
        bots = await dashboard.admin.get(session.key, "/bots", Page[Bot])
        names = [bot.id for bot in bots.items]
        shown = await listed(session)
        return page("jobs.html", page="Jobs", measurable=measurable, bots=names, session=session, jobs=shown)

    @routes.get("/dashboard/parts/jobs")
    async def part(request: Request) -> Response:
        session = await dashboard.session(request)
        return page("parts/jobs.html", session=session, jobs=await listed(session))

    @routes.get("/dashboard/parts/job/{job}")
    async def one(request: Request, job: str, bits: Annotated[int, Query(ge=4, le=16)], model: str) -> Response:
        session = await dashboard.session(request)
        found = await dashboard.admin.get(session.key, f"/jobs/{quote(job, safe='')}", Job)
        return page("parts/change_job.html", job=found, bits=bits, model=model)

    @routes.get("/dashboard/jobs/{job}/report")
    async def report(request: Request, job: str) -> Response:
        session = await dashboard.session(request)
        found = await dashboard.admin.get(session.key, f"/jobs/{quote(job, safe='')}/report", BotTestReport)
        return page("report.html", page="Jobs", session=session, report=found)

    @routes.get("/dashboard/jobs/{job}/report.json")
    async def report_file(request: Request, job: str) -> Response:
        session = await dashboard.session(request)
        body = await dashboard.admin.text(session.key, f"/jobs/{quote(job, safe='')}/report")
        return Response(body, media_type="application/json", headers=HEADERS)

    @routes.post("/dashboard/jobs/new/{kind}")
    async def new(request: Request, kind: Literal["quality", "bot_test", "autotune"]) -> Response:
        session = await changing(dashboard, request)
        form = await form_of(request)
        args: dict[str, object] = {"model": form.get("model", "")} if kind == "quality" else {}
        if kind == "bot_test":
            args = {"bot": form.get("bot", ""), "switch": form.get("switch") == "on"}
        await dashboard.admin.ask(session.key, "POST", "/jobs", Job, body={"kind": kind, "args": args})
        return page("parts/jobs.html", session=session, jobs=await listed(session))

    @routes.get("/dashboard/jobs/{job}/proposals")
    async def proposals(request: Request, job: str) -> Response:
        session = await dashboard.session(request)
        found = await dashboard.admin.get(session.key, f"/jobs/{quote(job, safe='')}", Job)
        result = result_of(found)
        if not isinstance(result, AutotuneResult):
            result = AutotuneResult()
        proposed = [] if result.changed else result.proposals
        return page(
            "parts/proposals.html",
            session=session,
            job=job,
            proposals=proposed,
            changed=result.changed,
            dropped=result.dropped,
        )

    @routes.post("/dashboard/jobs/{job}/apply")
    async def apply(request: Request, job: str) -> Response:
        session = await changing(dashboard, request)
        done = await dashboard.admin.ask(session.key, "POST", f"/jobs/{quote(job, safe='')}/apply", Applied)
        return page("parts/applied.html", changed=done.changed, left=done.left)

    @routes.post("/dashboard/jobs/{job}/{verb}")
    async def act(request: Request, job: str, verb: Literal["cancel", "retry"]) -> Response:
        session = await changing(dashboard, request)
        await dashboard.admin.ask(session.key, "POST", f"/jobs/{quote(job, safe='')}/{verb}", Job)
        return HTMLResponse("", 204, HEADERS)


def _base(request: Request) -> str:
    """Where browsers find this host."""
    return str(request.base_url.replace(scheme="https") if is_secure(request) else request.base_url)


@dataclass(frozen=True, slots=True)
class EmbeddedWidget:
    """A widget with the line that its shop puts on its pages, and what webhooks and visitors are signed with."""

    bot: str
    origins: Sequence[str]
    demo: bool
    snippet: str
    secret: str | None
    visitor_secret: str
    mail_replies: str | None  # the URL that a mailbox of replies posts to


def _embedded(dashboard: Dashboard, site: WidgetSite, base: str) -> EmbeddedWidget:
    snippet = f'<script src="{base}widget.js" data-token="{site.token}" defer></script>'
    secret = webhook_secret(site.bot, dashboard.gateway.secrets.pepper) if site.widget.hands_over else None
    visitors = visitor_secret(site.bot, dashboard.gateway.secrets.pepper)
    host, mails = dashboard.gateway, site.widget.handover_email is not None
    listens = mails and host.config.mail is not None and host.config.mail.replies_to is not None
    mail_url = f"{base}v1/mail-replies/{replies_key(host.secrets.pepper)}" if listens else None
    return EmbeddedWidget(site.bot, site.widget.allowed_origins, site.widget.demo, snippet, secret, visitors, mail_url)


def _days(now_s: float) -> tuple[str, str]:
    """The last DAYS days, today included, in UTC."""
    today = datetime.fromtimestamp(now_s, UTC).date()
    return (today - timedelta(days=DAYS - 1)).isoformat(), today.isoformat()
