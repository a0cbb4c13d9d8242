"""What every page says to the browser, and who may change things."""

from __future__ import annotations

import hmac

from fastapi import Request

from gateway.dashboard.logins import Login
from gateway.outcomes import Code, Refused

CSRF_HEADER = "x-csrf-token"

# No inline script or style anywhere: what an attacker slips into a name or an answer stays text.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer browsers send `Origin: null`, even to ourselves
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


def is_secure(request: Request) -> bool:
    """Whether the browser came over TLS, here or at a proxy in front.

    Whoever claims so without cause gets a cookie that their own browser keeps to itself.
    """
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"


def check_same_site(request: Request) -> None:
    """Refuse a change that another site's page asks for. Raises Refused."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    own = origin is not None and origin.partition("://")[2] == request.headers.get("host")
    if site not in (None, "same-origin") or (origin is not None and not own) or (site is None and origin is None):
        raise Refused(Code.INVALID_API_KEY, "This request came from another site, so nothing was changed.")


def check_csrf(request: Request, session: Login) -> None:
    """Refuse a change whose page did not get our token. Raises Refused."""
    check_same_site(request)
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):  # of text, it takes ASCII only
        raise Refused(Code.INVALID_API_KEY, "This page is out of date. Reload it.")
