"""Which web pages may read the chat API from a browser: those of `gateway.cors_origins`.

A page sends its API key itself, not a cookie that the browser adds, so an allowed origin gains nothing without a key.
Any request header may be sent: clients have many of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.call import Call, Header
from gateway.outcomes import Code, Refused

ANY = "*"
PREFLIGHT_KEEP_S = 600
METHODS = b"GET, HEAD, POST, OPTIONS"


def headers(call: Call, origins: Sequence[str]) -> list[Header]:
    """What any answer to this request carries, a refusal too."""
    if not origins:
        return []
    vary = (b"vary", b"origin")
    origin = call.header(b"origin")
    if origin is None or not (ANY in origins or origin.lower() in origins):
        return [vary]
    return [
        vary,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
    ]


def is_preflight(call: Call) -> bool:
    """Whether a browser asks what a page may send."""
    return call.method == "OPTIONS" and call.header(b"access-control-request-method") is not None


async def preflight(call: Call) -> None:
    """Answer a browser that asks first. Raises Refused for an origin that `headers` did not allow."""
    call.route = "preflight"
    origin = call.header(b"origin")
    if not any(name == b"access-control-allow-origin" for name, _ in call.always):
        raise Refused(
            Code.METHOD,
            f"Pages of {origin!r} may not use this API: gateway.cors_origins does not list this origin.",
            headers=((b"allow", METHODS),),
        )
    wanted = call.headers.get(b"access-control-request-headers", b"authorization, content-type")
    await call.start(
        204,
        [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", b"%d" % PREFLIGHT_KEEP_S),
        ],
    )
    await call.send(b"", more=False)
