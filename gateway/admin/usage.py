"""Usage for billing: JSON or CSV, by bot and day or summed up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Response

from gateway.admin.auth import Viewer
from gateway.admin.common import Host, routes
from gateway.admin.errors import BadValue
from gateway.admin.schemas import UsageReport, UsageRow
from services.store.job_args import DAY
from services.store.usage_report import By, UsageCounts, as_csv, as_dict, day_before, day_now, grouped, rows, total

DAYS_MAX = 400

router = routes("usage")


@router.get("/usage", response_model=UsageReport, responses={200: {"content": {"text/csv": {}}}})
async def report(
    host: Host,
    _: Viewer,
    *,
    from_day: Annotated[str | None, Query(alias="from", pattern=DAY, examples=["2026-11-01"])] = None,
    to_day: Annotated[str | None, Query(alias="to", pattern=DAY, examples=["2026-11-30"])] = None,
    tenant: Annotated[str | None, Query()] = None,
    bot: Annotated[str | None, Query(description="tenant/bot")] = None,
    by: Annotated[By, Query(description="row: a bot's day")] = "row",
    format: Annotated[Literal["json", "csv"], Query()] = "json",
) -> Any:
    """What was served from one day to another, both included; today alone where no day is given."""
    today = day_now(host.clock())
    last = _day(to_day, "to") or today
    first = _day(from_day, "from") or min(last, today)
    if first > last:
        raise BadValue(f"from {first} is after to {last}.", param="from")
    if first < day_before(last, DAYS_MAX):
        raise BadValue(f"At most {DAYS_MAX} days at once.", param="from")
    found = [
        row
        for row in await rows(host.connection, first, last)
        if tenant in (None, row.tenant) and bot in (None, row.bot)
    ]
    shown = grouped(found, by)
    if format == "csv":
        name = f'attachment; filename="usage-{first}-{last}.csv"'
        return Response(as_csv(shown), media_type="text/csv", headers={"content-disposition": name})
    return UsageReport(from_day=first, to_day=last, rows=[_shown(row) for row in shown], total=_shown(total(found)))


def _day(day: str | None, param: str) -> str | None:
    if day is None:
        return None
    try:
        day_before(day, DAYS_MAX)
    except (ValueError, OverflowError) as error:
        raise BadValue(f"{day!r} is not a day: {error}.", param=param) from None
    return day


def _shown(row: UsageCounts) -> UsageRow:
    return UsageRow.model_validate(as_dict(row))
