"""Tenants, keys and bots as this process knows them.

Answers come from memory. What keeps that safe is that a submission names the registry's version, and Redis refuses an
older one: a revoked key or a changed bot counts from the next chat on, at any number of gateways.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.outcomes import Code, Refused
from services.config.api_keys import ADMIN_PREFIX, digest
from services.config.schema import BotConfig, LimitsConfig
from services.store.connection import QueueUnavailable
from services.store.registry import Keyring, Registry
from services.store.submission import SubmissionClient

RETRY_S = 0.2
UNKNOWN_KEY_RELOAD_S_MIN = 1.0  # a wrong key makes us look for a newer registry that often at most

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServedBot:
    """A bot as one chat sees it."""

    tenant: str
    id: str  # tenant/name
    config: BotConfig


class Directory:
    """The registry in memory, kept fresh by `watch`."""

    def __init__(self, door: SubmissionClient, pepper: bytes, clock: Callable[[], float], admin_key: str = "") -> None:
        self._door = door
        self._pepper = pepper
        self._clock = clock
        self._admin_digest = digest(admin_key, pepper) if admin_key else ""
        self._reloading: asyncio.Task[None] | None = None
        self._loaded_s = float("-inf")
        self.registry = Registry()
        self._keyring = Keyring(self.registry, pepper)

    @property
    def version(self) -> int:
        """0 until a registry was read."""
        return self.registry.version

    async def reload(self) -> None:
        """Read the registry. Callers at the same time share one read. Raises QueueUnavailable."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._read())
        await asyncio.shield(self._reloading)

    async def _read(self) -> None:
        registry = await self._door.registry()
        self._loaded_s = self._clock()
        if registry.version != self.registry.version:
            self.registry = registry
            self._keyring = Keyring(registry, self._pepper)
            log.info("registry.read", version=registry.version, tenants=len(registry.tenants))

    async def watch(self) -> None:
        """Read on every change until cancelled. A hint that was lost is made up for by STALE submissions."""
        while True:
            try:
                async for _ in self._door.registry_changes():
                    await self.reload()
            except QueueUnavailable as error:
                log.warning("registry.unavailable", why=str(error))
                await asyncio.sleep(RETRY_S)

    async def authenticate(self, authorization: str | None) -> str:
        """The tenant of a `Bearer` key. Raises Refused, QueueUnavailable."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise _unauthorized("No API key given. Send `Authorization: Bearer <key>`.")
        tenant = self._keyring.tenant_of(key, self._clock())
        if tenant is None and self._clock() - self._loaded_s >= UNKNOWN_KEY_RELOAD_S_MIN:
            await self.reload()  # it may have been made a moment ago
            tenant = self._keyring.tenant_of(key, self._clock())
        if tenant is None and self._is_admin(key):
            raise _unauthorized("This is an admin key: it is for /admin/v1. Chats take a tenant's API key.")
        if tenant is None:
            raise _unauthorized("This API key is not valid.")
        return tenant

    def _is_admin(self, key: str) -> bool:
        return key.startswith(ADMIN_PREFIX) or hmac.compare_digest(digest(key, self._pepper), self._admin_digest)

    def bot(self, tenant: str, name: str) -> ServedBot:
        """A tenant's bot by `tenant/bot` or `bot`. Raises Refused, in the same words for a bot of another tenant."""
        config = self.registry.bot(tenant, name)
        if config is None:
            raise Refused(Code.MODEL_NOT_FOUND, f"The model {name!r} does not exist for this key.", param="model")
        return ServedBot(tenant, f"{tenant}/{name.rpartition('/')[2]}", config)

    def limits(self, tenant: str) -> LimitsConfig:
        """A tenant's limits."""
        record = self.registry.tenants.get(tenant)
        return record.config.limits if record else LimitsConfig()

    def bots(self, tenant: str) -> list[str]:
        """Ids of a tenant's bots."""
        record = self.registry.tenants.get(tenant)
        return [f"{tenant}/{name}" for name in record.config.bots] if record else []


def _unauthorized(message: str) -> Refused:
    return Refused(Code.INVALID_API_KEY, message, headers=((b"www-authenticate", b"Bearer"),))
