"""A tenant's rate limits on one chat: what is charged, and what its client is told of it."""

from __future__ import annotations

import math

from gateway.outcomes import Code, Refused
from gateway.state import Gateway
from services.contracts.chats import Ticket
from services.store.rate_limits import RateCharge, RateWindow, windows_of

_WORDS = {
    "requests": (Code.RATE_LIMIT, "requests a minute", "limits.requests_per_minute"),
    "tokens": (Code.RATE_LIMIT, "tokens a minute", "limits.tokens_per_minute"),
    "month": (Code.QUOTA, "tokens a month", "limits.tokens_per_month"),
}


def windows(gateway: Gateway, ticket: Ticket) -> list[RateWindow]:
    """Where a chat is to be charged the longest it may get: nowhere for a tenant without limits."""
    return windows_of(ticket.tenant, gateway.directory.limits(ticket.tenant), ticket.tokens_max, ticket.created_s)


def refusal(charged: RateCharge | None, now_s: float) -> Refused | None:
    """What to tell a client whose charge found no room in a window; None where that is not so."""
    if charged is None or charged.refused is None:
        return None
    window = charged.refused
    code, what, param = _WORDS[window.what]
    used = charged.used[charged.windows.index(window)]
    if window.amount > window.most:
        message = f"This chat may take {window.amount} tokens, more than your {window.most} {what}. Lower max_tokens."
        wait_s = None
    else:
        wait_s = window.resets_s - now_s
        message = (
            f"Your limit is {window.most} {what}; {used} are taken and this chat asks for {window.amount}. "
            f"Try again in {math.ceil(wait_s)} s."
        )
    retry_s = wait_s if window.what != "month" else None
    return Refused(code, message, param=param, retry_after_s=retry_s, headers=tuple(headers(charged, now_s)))


def headers(charged: RateCharge | None, now_s: float) -> list[tuple[bytes, bytes]]:
    """x-ratelimit-{limit,remaining,reset}-{requests,tokens}; the month's quota has no header in OpenAI's API."""
    found: list[tuple[bytes, bytes]] = []
    for window, used in zip(charged.windows, charged.used, strict=True) if charged else ():
        if window.what == "month":
            continue
        what = window.what.encode()
        found += [
            (b"x-ratelimit-limit-" + what, b"%d" % window.most),
            (b"x-ratelimit-remaining-" + what, b"%d" % max(0, window.most - used)),
            (b"x-ratelimit-reset-" + what, b"%.3fs" % max(0.0, window.resets_s - now_s)),
        ]
    return found
