"""The one place that connects to Redis, loads scripts and translates redis-py's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.queues.sockets import KINDS

CONNECTIONS_MAX = 64
SCRIPTS = (
    *("submit", "cancel", "follow", "limit", "registry"),  # gateways
    *("lease", "dispatch", "refuse", "lower"),  # the scheduler
    *("claim", "write", "settle"),  # workers
    *("command", "withdraw", "take_command", "job_create", "job_begin", "job_write"),  # the admin API and jobs
)
SCRIPTS_THAT_LEAVE = ("dispatch", "refuse")


class QueueUnavailable(Exception):
    """Redis did not answer within its timeout, or refused. Nothing was half done: scripts are atomic."""


class Connection:
    """A bounded pool of connections to one Redis, with one short timeout on everything but blocking reads.

    `url` is redis://, rediss:// or unix://. `timeout_s` bounds connecting and each answer.
    """

    def __init__(self, url: str, *, password: str | None = None, timeout_s: float = 2.0) -> None:
        self.timeout_s = timeout_s
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            password=password,
            max_connections=CONNECTIONS_MAX,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),  # a broken one, never a slow one
        )
        pool.connection_class = KINDS.get(pool.connection_class, pool.connection_class)
        # Any: redis-py types each answer as a union over both decodings and both protocols.
        self.redis: Any = redis.asyncio.Redis(connection_pool=pool)
        blocking = redis.asyncio.ConnectionPool.from_url(
            url,
            password=password,
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
            health_check_interval=15,
        )
        blocking.connection_class = KINDS.get(blocking.connection_class, blocking.connection_class)
        self.blocking: Any = redis.asyncio.Redis(connection_pool=blocking)
        self._scripts = {name: self.redis.register_script(_script(name)) for name in SCRIPTS}

    async def script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run one of the atomic steps. Raises QueueUnavailable."""
        with translated():
            return await self._scripts[name](keys=keys, args=args)

    async def blocked(self, read: Awaitable[Any], block_ms: int) -> Any:
        """The answer of a read that blocks on the server for `block_ms`, with one timeout more for the way.

        Without that bound a peer that vanished without a word would be waited for until it came back: for ever.
        Raises QueueUnavailable.
        """
        with translated():
            async with asyncio.timeout(block_ms / 1000 + self.timeout_s):
                return await read

    async def ping(self) -> None:
        """Raises QueueUnavailable unless Redis answers in time."""
        with translated():
            await self.redis.ping()

    async def close(self) -> None:
        """Give all connections back."""
        for client in (self.redis, self.blocking):
            await client.aclose()
            await client.connection_pool.disconnect()  # a client that was given its pool leaves it open


@cache
def _script(name: str) -> str:
    folder = files("services.queues").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text()
    return folder.joinpath("leave.lua").read_text() + text if name in SCRIPTS_THAT_LEAVE else text


class translated:  # noqa: N801  (reads as a word in `with translated():`)
    """Redis and socket errors leave this block as QueueUnavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (RedisError, OSError, TimeoutError)):
            raise QueueUnavailable(f"Redis: {type(error).__name__}: {error}") from error


@asynccontextmanager
async def connect(url: str, *, password: str | None = None, timeout_s: float = 2.0) -> AsyncIterator[Connection]:
    """A connection that answers, closed at the end. Raises QueueUnavailable."""
    connection = Connection(url, password=password, timeout_s=timeout_s)
    try:
        await connection.ping()
        yield connection
    finally:
        await connection.close()


def read_password(path: Path | None) -> str | None:
    """The password in a file, without its newline."""
    return path.read_text().strip() if path else None
