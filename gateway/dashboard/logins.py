"""An operator's login: a signed cookie in the browser, the admin key sealed in Redis.

The cookie holds a fresh 256-bit secret. Redis keeps the admin key, sealed with that secret, under the secret's digest:
neither the browser nor a copy of Redis has the key. Every request asks the admin API with that key, so a revoked key or
a changed role counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.outcomes import Code, Refused
from services.store.connection import Connection
from services.store.logins import LoginStore, SealedLogin

COOKIE = "bunkhouse_session"
IDLE_S = 4 * 3600
LIFE_S = 12 * 3600
TRIES_PER_MINUTE = 10
_MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class Login:
    """Who is logged in. `csrf` must come back with every change."""

    name: str
    role: str  # "viewer" | "operator" | "owner"
    key: str = field(repr=False)
    secret: str = field(repr=False)

    @property
    def csrf(self) -> str:
        return hmac.new(self.secret.encode(), b"csrf", hashlib.sha256).hexdigest()

    @property
    def operates(self) -> bool:
        """Whether the role may change things; the admin API decides in the end."""
        return self.role in ("operator", "owner")


class Logins:
    """Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection, pepper: bytes, clock: Callable[[], float]) -> None:
        self._store = LoginStore(connection)
        self._pepper = pepper
        self._clock = clock

    async def begin(self, key: str, name: str, role: str) -> str:
        """A new session. Returns the cookie's value."""
        secret = secrets.token_urlsafe(32)
        sealed = _sealed(key.encode(), secret)
        mac = hmac.new(secret.encode(), b"seal" + sealed, hashlib.sha256).hexdigest()
        ends_s = self._clock() + LIFE_S
        login = SealedLogin(name=name, role=role, sealed=sealed.hex(), mac=mac, ends_s=ends_s)
        await self._store.keep(_name(secret), login, IDLE_S)
        return f"{secret}.{self._signature(secret)}"

    async def find(self, cookie: str | None) -> Login | None:
        """The session behind a cookie, or None. Keeps it for IDLE_S more."""
        secret = self._secret(cookie)
        if secret is None:
            return None
        stored = await self._store.find(_name(secret), IDLE_S)
        if stored is None:
            return None
        sealed = bytes.fromhex(stored.sealed)
        mac = hmac.new(secret.encode(), b"seal" + sealed, hashlib.sha256).hexdigest()
        if stored.ends_s <= self._clock() or not hmac.compare_digest(mac, stored.mac):
            return None
        return Login(stored.name, stored.role, _sealed(sealed, secret).decode(), secret)

    async def end(self, cookie: str | None) -> None:
        """Log out."""
        secret = self._secret(cookie)
        if secret is not None:
            await self._store.drop(_name(secret))

    async def count_try(self, address: str) -> None:
        """Count a login as failed, until `succeeded`. Raises Refused above TRIES_PER_MINUTE."""
        now_s = self._clock()
        if await self._store.count_try(address, now_s) > TRIES_PER_MINUTE:
            raise Refused(
                Code.RATE_LIMIT, "Too many failed logins. Wait a minute.", retry_after_s=_MINUTE_S - now_s % _MINUTE_S
            )

    async def succeeded(self, address: str) -> None:
        """The login just counted did not fail."""
        await self._store.uncount_try(address, self._clock())

    def _secret(self, cookie: str | None) -> str | None:
        secret, _, signature = (cookie or "").partition(".")
        own = self._signature(secret)
        # as bytes: of text, compare_digest takes ASCII only
        return secret if secret and hmac.compare_digest(signature.encode(), own.encode()) else None

    def _signature(self, secret: str) -> str:
        return hmac.new(self._pepper, b"dashboard session " + secret.encode(), hashlib.sha256).hexdigest()


def _name(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _sealed(data: bytes, secret: str) -> bytes:
    """XOR with a keystream that is used once: every session has a secret of its own. Its own inverse."""
    stream = hashlib.shake_256(b"dashboard seal " + secret.encode()).digest(len(data))
    return bytes(one ^ other for one, other in zip(data, stream, strict=True))
