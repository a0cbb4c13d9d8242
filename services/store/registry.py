"""Tenants, their keys and bots, as one versioned document in Redis.

Gateways keep it parsed in memory. Each submission names the version it was checked against, and Redis refuses an
older one, so a revoked key stops working at once at any number of gateway processes, with no extra round trip.
"""

from __future__ import annotations

import hashlib
import hmac

from pydantic import BaseModel, ConfigDict

from services.config.api_keys import digest, ready_id, ready_key
from services.config.schema import FORMER_NAMES, BotConfig, Config, TenantConfig


class KeyRecord(BaseModel):
    """One API key, as stored: never the key itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # public, for lists and revocation
    digest: str  # HMAC-SHA256 of the key under the host's pepper, hex
    created_s: float
    expires_s: float | None = None


class TenantRecord(BaseModel):
    """A tenant as the host runs it now: its configuration, with what the admin API changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TenantConfig
    keys: tuple[KeyRecord, ...] = ()
    seed: str = ""  # digest of the YAML section it came from; a changed section overwrites
    ready: bool = True  # False: its ready key was revoked or rotated, and is not made again


class Registry(BaseModel):
    """Everything that a request is checked against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = 0
    tenants: dict[str, TenantRecord] = {}
    deleted: dict[str, str] = {}  # tenant -> its seed then; it comes back when its YAML section changes

    def bot(self, tenant: str, name: str) -> BotConfig | None:
        """A tenant's own bot, or None: other tenants' bots do not exist for it."""
        record = self.tenants.get(tenant)
        owner, _, bot = name.rpartition("/")
        if record is None or owner not in ("", tenant):
            return None
        return record.config.bots.get(bot)


class Keyring:
    """Digests of all keys -> tenant. Built once for each registry version."""

    def __init__(self, registry: Registry, pepper: bytes) -> None:
        self._pepper = pepper
        self._by_digest = {key.digest: (name, key) for name, tenant in registry.tenants.items() for key in tenant.keys}

    def tenant_of(self, key: str, now_s: float) -> str | None:
        """The tenant that a presented key belongs to, or None.

        Looking a keyed digest up tells an attacker nothing about the key; the last comparison is constant-time.
        """
        presented = digest(key, self._pepper)
        tenant, record = self._by_digest.get(presented, (None, None))
        if record is None or not hmac.compare_digest(record.digest, presented):
            return None
        if record.expires_s is not None and record.expires_s <= now_s:
            return None
        return tenant


def seeded(current: Registry, config: Config, pepper: bytes, now_s: float) -> Registry:
    """The registry after a start with this configuration.

    A tenant whose YAML section changed since it was last seeded takes the section; else the admin API's changes
    stay. Keys made through the admin API always stay. Tenants that left the file stay too: deleting is explicit, and
    a tenant that was deleted stays away until its section changes.
    """
    tenants, deleted = dict(current.tenants), dict(current.deleted)
    for name, section in config.tenants.items():
        seed, seeds = _seed(section), _seeds(section)
        if deleted.get(name) in seeds:
            deleted[name] = seed
            continue
        deleted.pop(name, None)
        old = tenants.get(name)
        kept = old.keys if old else ()
        ready = old is None or old.ready
        if ready:
            kept = tuple(key for key in kept if key.id != ready_id(name))
        if ready and section.ready_key:
            stored = digest(ready_key(name, pepper), pepper)
            kept = (*kept, KeyRecord(id=ready_id(name), digest=stored, created_s=now_s))
        use = section if old is None or old.seed not in seeds else old.config
        tenants[name] = TenantRecord(config=use, keys=kept, seed=seed, ready=ready)
    return Registry(version=current.version + 1, tenants=tenants, deleted=deleted)


def _seed(section: TenantConfig) -> str:
    """Digest of a YAML section, by what it says: a setting that a release adds does not count until it is set."""
    return _digest_of(section.model_dump_json(exclude_defaults=True))


def _seeds(section: TenantConfig) -> tuple[str, ...]:
    """Its digest, and those that earlier versions stored, to be recognized and replaced: with all settings, and with
    former names."""
    said = section.model_dump_json(exclude_defaults=True)
    formerly = said
    for former, name in FORMER_NAMES.items():
        formerly = formerly.replace(f'"{name}":', f'"{former}":')  # in a string the quotes would be escaped
    return tuple(map(_digest_of, (said, section.model_dump_json(), formerly)))


def _digest_of(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()[:16]
