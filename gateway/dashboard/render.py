"""Templates to answers. Everything is escaped; names and answers from outside stay text."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from time import time

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FunctionLoader, StrictUndefined

from gateway.dashboard.security import HEADERS
from gateway.dashboard.view import count
from services.contracts.units import bytes_in_words


def page(template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A page or a part of one."""
    return HTMLResponse(_environment().get_template(template).render(values), status, HEADERS)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "gb": bytes_in_words,
        "ms": milliseconds,
        "ago": ago,
        "iso": iso,
        "amount": amount,
        "count": count,
    }
    return made


def _source(name: str) -> str:
    return files("gateway.dashboard").joinpath("templates", *name.split("/")).read_text()


def milliseconds(value: float | None) -> str:
    """`14.2 ms`, `1.4 s`, or a dash where nothing was measured."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def amount(value: float | None) -> str:
    """A number as people write it: 12,480, or 3.2 million."""
    if value is None:
        return "–"
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f} billion"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} million"
    return f"{value:,.0f}"


def ago(at_s: float) -> str:
    """`12 s ago`, `4 min ago`, then the time of day or the date, in UTC."""
    passed = max(0.0, time() - at_s)
    if passed < 60:
        return f"{passed:.0f} s ago"
    if passed < 3600:
        return f"{passed // 60:.0f} min ago"
    form = "%H:%M UTC" if passed < 86_400 else "%d %b"
    return datetime.fromtimestamp(at_s, UTC).strftime(form)


def iso(at_s: float) -> str:
    """For `datetime` attributes."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
