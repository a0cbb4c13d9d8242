"""What every process of the host opens first: its configuration, its secrets, and where its Redis is.

Nothing is handed from parent to child but the configuration's path: a worker started by hand, by `bunkhouse up` or in a
container finds the same Redis. BUNKHOUSE_REDIS_URL (and BUNKHOUSE_REDIS_PASSWORD_FILE) name another one, and
BUNKHOUSE_GATEWAY_URL says where the gateway is, if not on this machine: http://gateway:8000.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.config.host_secrets import Secrets, load_secrets
from services.config.schema import Config, ConfigError, load
from services.store import redis_keys
from services.store.connection import Connection, connect, read_password
from services.store.host_identity import claim_redis, identity_of

REDIS_URL_ENV = "BUNKHOUSE_REDIS_URL"
REDIS_PASSWORD_FILE_ENV = "BUNKHOUSE_REDIS_PASSWORD_FILE"  # noqa: S105  (a variable's name)
GATEWAY_URL_ENV = "BUNKHOUSE_GATEWAY_URL"
PATIENCE_S = 15.0  # of a process that starts; above restarts.SOUND_S, so that no full disk ends the host
SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108


@dataclass(frozen=True, slots=True)
class Runtime:
    """One host, as each of its processes sees it."""

    config: Config
    config_path: Path
    secrets: Secrets
    redis_url: str = field(repr=False)  # may carry a password
    redis_password: str | None = field(repr=False)

    @classmethod
    def from_config(cls, path: Path, environ: Mapping[str, str] = os.environ) -> Runtime:
        """Raises ConfigError, SecretsError."""
        config = load(path, environ)
        redis_keys.use_prefix(config.redis.prefix)
        secrets = load_secrets(config.data_dir, environ)
        url, password = _redis(config, secrets, environ)
        return cls(config, path, secrets, url, password)

    @asynccontextmanager
    async def connect(self, patience_s: float = 0.0) -> AsyncIterator[Connection]:
        """A connection to the host's Redis. Raises ConfigError where that is another host's, and QueueUnavailable after
        `patience_s`."""
        async with connect(
            self.redis_url,
            password=self.redis_password,
            timeout_s=self.config.redis.timeout_s,
            patience_s=patience_s,
        ) as connection:
            name = f"{socket.gethostname()}:{self.config.data_dir.absolute()}"
            await claim_redis(connection, identity_of(self.secrets.pepper), name)
            yield connection


def open_runtime(config_path: Path) -> Runtime:
    """What `python -m gateway CONFIG` and its like start with. Raises ConfigError, SecretsError."""
    return Runtime.from_config(config_path)


def redis_dir(config: Config) -> Path:
    """Where the embedded server keeps its data."""
    return config.data_dir.absolute() / "redis"


def redis_socket(config: Config) -> Path:
    """The embedded server's socket: in its data folder, or in the temporary one where that path is too long."""
    path = redis_dir(config) / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"bunkhouse-{os.getuid()}-{short}.sock"


def _redis(config: Config, secrets: Secrets, environ: Mapping[str, str]) -> tuple[str, str | None]:
    named = environ.get(REDIS_URL_ENV)
    if named is None and config.redis.url == "embedded":
        return f"unix://{redis_socket(config)}", secrets.redis_password
    file = environ.get(REDIS_PASSWORD_FILE_ENV)
    password_file = Path(file) if file else config.redis.password_file
    try:
        return named or config.redis.url, read_password(password_file)
    except OSError as error:
        raise ConfigError(f"redis.password_file: {password_file} cannot be read: {error.strerror}") from error
