"""API keys: how they are made, and what is stored of them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import lru_cache

KEY_PREFIX = "bh-"
ADMIN_PREFIX = "bh-admin-"  # of further admin keys; the owner's is the host's own (services.config.host_secrets)


def new_key() -> str:
    """A fresh API key: 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def ready_id(tenant: str) -> str:
    """The id of a tenant's ready key."""
    return f"{tenant}-ready"


def ready_key(tenant: str, secret: bytes) -> str:
    """The key that `ready_key: true` gives a tenant: the same at every start of the same host."""
    mac = hmac.new(secret, b"ready key of " + tenant.encode(), hashlib.sha256)
    return KEY_PREFIX + mac.hexdigest()


def digest(key: str, pepper: bytes) -> str:
    """What is stored for a key."""
    return hmac.digest(pepper, key.encode(), "sha256").hex()


@lru_cache(maxsize=4096)  # each chat asks for its tenant's
def salt(tenant: str, secret: bytes) -> str:
    """A tenant's prefix-cache salt: engines share no cached prefix between different salts."""
    return hmac.digest(secret, b"cache salt of " + tenant.encode(), "sha256").hex()[:32]
