"""Tenants, keys, bots and engines as this process knows them.

Answers come from memory. What keeps that safe is that a submission names the registry's version, and Redis refuses an
older one: a revoked key or a changed bot counts from the next chat on, at any number of gateways.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from gateway.outcomes import Code, Refused
from services.config.api_keys import ADMIN_PREFIX, digest
from services.config.schema import BotConfig, LimitsConfig, ModelConfig
from services.contracts.engines import EngineFacts
from services.contracts.snapshot import ModelSnapshot
from services.store.connection import QueueUnavailable
from services.store.registry import Keyring, Registry
from services.store.submission import SubmissionClient

RETRY_S = 0.2
ENGINES_EVERY_S = 1.0
GUARD_EVERY_S = 1.0
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

    def __init__(
        self, submissions: SubmissionClient, pepper: bytes, clock: Callable[[], float], admin_key: str = ""
    ) -> None:
        self._submissions = submissions
        self._pepper = pepper
        self._clock = clock
        self._admin_digest = digest(admin_key, pepper) if admin_key else ""
        self._reading = asyncio.Lock()
        self._next_read: asyncio.Task[None] | None = None
        self._loaded_s = float("-inf")
        self.registry = Registry()
        self._keyring = Keyring(self.registry, pepper)

    @property
    def version(self) -> int:
        """0 until a registry was read."""
        return self.registry.version

    async def reload(self) -> None:
        """Read the registry as it is from now on. Callers at the same time share the next read; one that is under way
        may have begun before a caller's change. Raises QueueUnavailable."""
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read_next())
        await asyncio.shield(self._next_read)

    async def _read_next(self) -> None:
        async with self._reading:
            self._next_read = None
            await self._read()

    async def _read(self) -> None:
        registry = await self._submissions.registry()
        if registry.version == 0 < self.version:
            if await self._submissions.restore_registry(self.registry, self._clock()):
                log.error("registry.restored", why="Redis had lost it", tenants=len(self.registry.tenants))
            registry = await self._submissions.registry()
        self._loaded_s = self._clock()
        if registry.version != self.registry.version:
            self.registry = registry
            self._keyring = Keyring(registry, self._pepper)
            log.info("registry.read", version=registry.version, tenants=len(registry.tenants))

    async def watch(self) -> None:
        """Read on every change until cancelled. A hint that was lost is made up for by STALE submissions."""
        while True:
            try:
                async for _ in self._submissions.registry_changes():
                    await self.reload()
            except QueueUnavailable as error:
                log.warning("registry.unavailable", why=str(error))
                await asyncio.sleep(RETRY_S)

    async def guard(self) -> None:
        """Write the registry back when Redis has lost it, until cancelled."""
        while True:
            await asyncio.sleep(GUARD_EVERY_S)
            with contextlib.suppress(QueueUnavailable):
                if await self._submissions.registry_version() == 0:
                    await self.reload()

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
            raise _unauthorized("This is an admin key, for /admin/v1. Chats need a tenant's API key.")
        if tenant is None:
            raise _unauthorized("This API key is not valid.")
        return tenant

    def _is_admin(self, key: str) -> bool:
        return key.startswith(ADMIN_PREFIX) or hmac.compare_digest(digest(key, self._pepper), self._admin_digest)

    def bot(self, tenant: str, name: str) -> ServedBot:
        """A tenant's bot by `tenant/bot` or `bot`. Raises Refused, in the same words for a bot of another tenant."""
        config = self.registry.bot(tenant, name)
        if config is None:
            raise Refused(
                Code.MODEL_NOT_FOUND,
                f"The model {name!r} does not exist for this key. GET /v1/models lists those that do.",
                param="model",
            )
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


@dataclass(frozen=True, slots=True)
class EngineNow:
    """One model as the gateway sees it. `bits_available` holds one value where sessions cannot differ."""

    bits_available: tuple[int, ...]  # up to those that an operator set for the model
    live: bool  # sessions may differ in bits
    context_tokens: int
    pressure: float = 0.0  # part of the KV memory that is reserved, 0..1
    bytes_per_token: Mapping[int, int] = field(default_factory=dict)  # by KV bits; empty until its engine was heard of


class Engines:
    """All models: as configured until their engines were heard of, kept fresh by `watch`."""

    def __init__(self, submissions: SubmissionClient, models: Mapping[str, ModelConfig]) -> None:
        self._submissions = submissions
        self._now = {name: _as_configured(model) for name, model in models.items()}
        self._given_up: set[str] = set()

    def get(self, model: str) -> EngineNow | None:
        """The model now; None where this host has none of that name."""
        return self._now.get(model)

    def gave_up(self, model: str) -> bool:
        """Whether nobody starts its worker again."""
        return model in self._given_up

    async def look(self) -> None:
        """Read once. What cannot be read stays as it was last seen. Raises QueueUnavailable."""
        snapshot, self._given_up = await self._submissions.snapshot(), await self._submissions.given_up()
        for model, seen in (await self._submissions.engines()).items():
            if model in self._now:
                account = snapshot.models.get(model) if snapshot else None
                pressure = self._now[model].pressure if account is None else _pressure(account)
                self._now[model] = engine_now(seen.facts, pressure)

    async def watch(self) -> None:
        """Look until cancelled. What was last seen counts on while Redis is away."""
        while True:
            try:
                await self.look()
            except QueueUnavailable as error:
                log.warning("engines.unavailable", why=str(error))
            await asyncio.sleep(ENGINES_EVERY_S)


def _as_configured(model: ModelConfig) -> EngineNow:
    if model.kv_bits == "mixed":
        return EngineNow((4, 8), True, model.context_tokens)
    return EngineNow((model.kv_bits,), False, model.context_tokens)


def engine_now(facts: EngineFacts, pressure: float = 0.0) -> EngineNow:
    """As the engine describes itself."""
    live, most = facts.live_kv_bits, int(facts.kv_bits)
    bits = tuple(sorted(bits for bits in facts.kv_bytes_per_token if bits <= most)) if live else (most,)
    return EngineNow(bits, live, facts.context_tokens, pressure, facts.kv_bytes_per_token)


def _pressure(account: ModelSnapshot) -> float:
    return min(1.0, account.reserved_bytes / account.budget_bytes) if account.budget_bytes else 0.0
