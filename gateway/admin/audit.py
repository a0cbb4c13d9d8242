"""The audit log: every change that was made through this API, or every call of a bot's action, newest first."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query, Response

from gateway.admin.auth import Viewer
from gateway.admin.common import Host, routes
from gateway.admin.schemas import AuditEntry, Page
from services.store.audit_log import Entry, entries

COLUMNS = ("id", "at_s", "who", "role", "action", "target", "request", "before", "after")
SECONDS_MAX = 1e11

router = routes("audit")


@router.get("/audit", response_model=Page[AuditEntry], responses={200: {"content": {"text/csv": {}}}})
async def index(
    host: Host,
    _: Viewer,
    *,
    since_s: Annotated[float, Query(ge=0, le=SECONDS_MAX, allow_inf_nan=False)] = 0.0,
    until_s: Annotated[float, Query(ge=0, le=SECONDS_MAX, allow_inf_nan=False)] = SECONDS_MAX,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 200,
    format: Annotated[Literal["json", "csv"], Query()] = "json",
    of: Annotated[Literal["changes", "actions"], Query(description="actions: calls that bots made")] = "changes",
) -> Any:
    """Who changed what, when, from what to what. Secrets are masked before they are written."""
    found = [entry async for entry in entries(host.connection, since_s, until_s, limit + 1, actions=of == "actions")]
    shown, more = [_shown(entry) for entry in found[:limit]], len(found) > limit
    if format == "csv":
        return Response(
            _csv(shown), media_type="text/csv", headers={"content-disposition": 'attachment; filename="audit.csv"'}
        )
    return Page[AuditEntry](items=shown, more=more)


def _shown(entry: Entry) -> AuditEntry:
    return AuditEntry(id=entry.id, **asdict(entry.note))


def _csv(shown: list[AuditEntry]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for entry in shown:
        values = entry.model_dump(mode="json")
        writer.writerow([_cell(values[name]) for name in COLUMNS])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Keeps a spreadsheet from reading a name as a formula."""
    text = orjson.dumps(value).decode() if isinstance(value, (dict, list)) else "" if value is None else str(value)
    return f"'{text}" if text[:1] in "=+-@" and text else text
