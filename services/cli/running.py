"""Finds the host that runs on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from services.config.api_keys import ready_key
from services.config.host_secrets import load_secrets
from services.config.schema import Config, load
from services.host.state_file import read_state

DEFAULT_DATA_DIR = Path(".bunkhouse")


@dataclass(frozen=True, slots=True)
class RunningHost:
    """Where a host listens, and a key for it. None: not known."""

    url: str | None
    key: str | None = field(repr=False)

    def replaced(self, url: str | None, key: str | None) -> Self:
        """With what the user named instead."""
        return replace(self, url=url or self.url, key=key or self.key)


def config_of(path: str | None) -> Config | None:
    """The named configuration, or that of the host on the default data folder. Raises ConfigError."""
    if path is None and (running := read_state(DEFAULT_DATA_DIR)):
        path = running.config
    return load(Path(path)) if path else None


def find(config_path: str | None, tenant: str) -> RunningHost:
    """The running host and the tenant's ready key, where they are known. Raises ConfigError, SecretsError."""
    config = config_of(config_path)
    if config is None:
        return RunningHost(None, None)
    running = read_state(config.data_dir)
    section = config.tenants.get(tenant)
    ready = section is not None and section.ready_key
    key = ready_key(tenant, load_secrets(config.data_dir).pepper) if ready else None
    return RunningHost(running.url if running else None, key)
