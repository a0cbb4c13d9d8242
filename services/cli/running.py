"""Finds the host that runs on this machine: what `bunkhouse up` wrote beside its data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psutil

from services.config.api_keys import ready_key
from services.config.host_secrets import load_secrets
from services.config.schema import Config, load
from services.host.host import STATE_FILE

DEFAULT_DATA_DIR = Path(".bunkhouse")


@dataclass(frozen=True, slots=True)
class RunningHost:
    """Where a host listens, and a key for it. None: not known."""

    url: str | None
    key: str | None = field(repr=False)

    def replaced(self, url: str | None, key: str | None) -> Self:
        """With what the user named instead."""
        return replace(self, url=url or self.url, key=key or self.key)


def state(data_dir: Path) -> dict[str, Any] | None:
    """What `bunkhouse up` on this folder says of itself; None when none runs."""
    try:
        told: dict[str, Any] = json.loads((data_dir / STATE_FILE).read_text())
    except (OSError, ValueError):
        return None
    return told if psutil.pid_exists(told["pid"]) else None


def config_of(path: str | None) -> Config | None:
    """The configuration named, or that of the host on the usual data folder. Raises ConfigError."""
    if path is None:
        told = state(DEFAULT_DATA_DIR)
        path = told["config"] if told else None
    return load(Path(path)) if path else None


def find(config_path: str | None, tenant: str) -> RunningHost:
    """The running host and the tenant's ready key, as far as they are known. Raises ConfigError, SecretsError."""
    config = config_of(config_path)
    if config is None:
        return RunningHost(None, None)
    told = state(config.data_dir)
    section = config.tenants.get(tenant)
    ready = section is not None and section.ready_key
    key = ready_key(tenant, load_secrets(config.data_dir).pepper) if ready else None
    return RunningHost(told["url"] if told else None, key)
