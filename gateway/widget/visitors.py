"""Visitors whom the shop vouches for: a JSON Web Token (HS256) that its server signs with the bot's visitor secret.

    {"sub": "customer-17", "name": "Ada", "exp": 1796083200}      sub and exp are required; times in seconds

No other algorithm is taken, whatever the token's header says, and no token that is valid for longer than KEEP_S_MAX.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.outcomes import Code, Refused

TOKEN_CHARS_MAX = 2000
KEEP_S_MAX = 31 * 86_400


class Visitor(BaseModel):
    """Who a visitor is by the shop's word."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    sub: str = Field(min_length=1, max_length=100)
    name: str = Field(default="", max_length=100)
    exp: float


class _Header(BaseModel):
    alg: str


def visitor_secret(bot: str, pepper: bytes) -> str:
    """What `tenant/bot`'s shop signs its visitors with."""
    return hmac.new(pepper, f"visitors of {bot}".encode(), hashlib.sha256).hexdigest()


def verified(token: str, secret: str, now_s: float) -> Visitor:
    """The visitor of a token. Raises Refused that says what is wrong with it."""
    try:
        signed, _, signature = token.rpartition(".")
        header, payload = signed.split(".")
        right = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
        if _Header.model_validate_json(_decoded(header)).alg != "HS256":
            raise _refused("its algorithm must be HS256")
        if not hmac.compare_digest(_decoded(signature), right):
            raise _refused("it is not signed with this bot's visitor secret")
        visitor = Visitor.model_validate_json(_decoded(payload))
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except ValueError:
        raise _refused("it is not a JSON Web Token") from None
    if not now_s < visitor.exp <= now_s + KEEP_S_MAX:
        raise _refused("exp must be in the future, at most 31 days from now")
    return visitor


def _decoded(part: str) -> bytes:
    """base64url without padding. Raises ValueError."""
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _refused(why: str) -> Refused:
    return Refused(Code.INVALID_VALUE, f"The visitor's token cannot be used: {why}.", param="visitor")
