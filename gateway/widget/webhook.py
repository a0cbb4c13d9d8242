"""One signed POST to a tenant's webhook, by the rules of gateway.outgoing."""

from __future__ import annotations

import hashlib
import hmac

from gateway.outgoing import OutgoingFailed, OutgoingRequest, Resolve, resolve, send
from services.config.urls import endpoint

DELIVERY_S_MAX = 15.0  # below handover.IN_HAND_S
FINAL = frozenset({400, 401, 403, 404, 405, 410, 413, 422})  # statuses that a second try does not change


class WebhookFailed(Exception):
    """It was not delivered. `final`: trying again cannot help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


def signature(secret: str, at_s: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 over `SECONDS.BODY`, so that an old delivery cannot be played again."""
    mac = hmac.new(secret.encode(), b"%d." % at_s + body, hashlib.sha256)
    return f"t={at_s},v1={mac.hexdigest()}"


async def post(url: str, body: bytes, headers: dict[str, str], *, resolver: Resolve = resolve) -> None:
    """Deliver once. Raises WebhookFailed."""
    own = {**headers, "content-type": "application/json"}
    try:
        answer = await send(OutgoingRequest("POST", url, own, body, limit_s=DELIVERY_S_MAX), resolver=resolver)
    except OutgoingFailed as error:
        raise WebhookFailed(str(error), final=error.final) from error
    if not 200 <= answer.status < 300:
        raise WebhookFailed(f"{endpoint(url)[0]} answered {answer.status}", final=answer.status in FINAL)
