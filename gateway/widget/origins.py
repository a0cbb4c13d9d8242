"""Which pages may use a widget.

Browsers name the page's origin on every request across origins, and a page cannot forge it. Programs can: rates and
the tenant's limits bound them. Fails closed: an origin that is not listed gets no CORS header and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.outcomes import Code, Refused
from gateway.widget.sites import WidgetSite

METHODS = "GET, POST, OPTIONS"
HEADERS = "content-type, last-event-id"
PREFLIGHT_KEEP_S = 600
PREFLIGHT = {  # beside those of any answer, to a browser that asks first
    "access-control-allow-methods": METHODS,
    "access-control-allow-headers": HEADERS,
    "access-control-max-age": str(PREFLIGHT_KEEP_S),
}


def check(site: WidgetSite, headers: Mapping[str, str], *, writes: bool) -> None:
    """Raises Refused for a page that is not allowed. The host's own page may read without naming an origin."""
    origin = headers.get("origin")
    if origin is None:
        if writes or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise _not_allowed("A page that names no origin")
    elif allowed(site, headers) is None:
        raise _not_allowed(origin)


def allowed(site: WidgetSite, headers: Mapping[str, str]) -> str | None:
    """The origin that a request names, where its page may use the widget."""
    origin = headers.get("origin")
    if origin is None:
        return None
    listed = origin.lower() in site.widget.allowed_origins
    return origin if listed or (site.widget.demo and _is_own(origin, headers)) else None


def allow(origin: str | None) -> dict[str, str]:
    """CORS headers of an answer to an allowed origin."""
    shared = {"vary": "origin"}
    if origin is not None:
        shared |= {"access-control-allow-origin": origin, "access-control-expose-headers": "retry-after"}
    return shared


def _is_own(origin: str, headers: Mapping[str, str]) -> bool:
    return origin.partition("://")[2] == headers.get("host")


def _not_allowed(origin: str) -> Refused:
    return Refused(Code.NOT_FOUND, f"{origin[:120]} may not use this widget. Its bot's allowed_origins do not list it.")
