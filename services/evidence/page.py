"""The report pages' templates: one base page for load tests, comparisons and proofs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from services.evidence.charts import duration


@cache
def environment() -> jinja2.Environment:
    """The templates. HTML is escaped, Markdown is not."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["duration"] = duration
    return env


def render(template: str, **values: object) -> str:
    """One of the templates, filled."""
    return environment().get_template(template).render(**values)
