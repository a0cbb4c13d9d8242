"""The one place that connects to Redis, loads scripts and translates redis-py's errors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import redis.asyncio
import structlog
from redis.exceptions import NoScriptError, RedisError

from services.store.redis_client import KINDS, BlockingPool, Client, Hear, SharedConnection, listen, pack

SCRIPTS = (
    *("submit", "cancel", "follow", "attend", "unread", "registry", "take_delivery", "converse", "let_go"),  # gateways
    *("lease", "dispatch", "overflow", "refuse", "lower"),  # the scheduler
    *("claim", "write", "held", "demoted", "settle", "mend"),  # workers
    *("command", "withdraw", "take_command"),  # the admin API and workers
    *("job_create", "job_begin", "job_write", "job_resend"),  # the admin API and jobs
)
PREPENDED = {
    "dispatch": ("leave", "ready"),
    "overflow": ("leave", "ready"),
    "refuse": ("leave", "give_back", "show"),
    "settle": ("give_back", "show"),
}
PAUSE_S = 0.5
RETRY_PAUSES_S = (0.05, 0.2, 0.5, 1.0)

T = TypeVar("T")

log = structlog.get_logger()


class QueueUnavailable(Exception):
    """Redis did not answer within its timeout, or refused. Nothing was half done: scripts are atomic."""


class Connection:
    """One socket for all commands to one Redis, and one for each read that blocks. Every answer has a short timeout.

    `url` is redis://, rediss:// or unix://. `timeout_s` bounds each answer, connecting included.
    """

    def __init__(self, url: str, *, password: str | None = None, timeout_s: float = 2.0) -> None:
        self.timeout_s = timeout_s
        pool = _pool(url, password, timeout_s, timeout_s)
        self._pipe = SharedConnection(pool.make_connection, connect_s=timeout_s, answer_s=timeout_s)
        # Any: redis-py types each answer as a union over both decodings and both protocols.
        self.redis: Any = Client(pool, self._pipe)
        blocking = _pool(url, password, timeout_s, None)
        # Not sent again when a socket breaks: what a lost answer held is the consumer's already.
        self._lanes = BlockingPool(
            lambda: SharedConnection(blocking.make_connection, connect_s=timeout_s, answer_s=None, repeat=False)
        )
        self.blocking: Any = Client(blocking, self._lanes)
        self._scripts = {name: _script(name) for name in SCRIPTS}

    async def script(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Run one of the atomic steps. Raises QueueUnavailable."""
        text, sha = self._scripts[name]
        with translated():
            try:
                return await self._pipe.ask(pack(("EVALSHA", sha, len(keys), *keys, *args)))
            except NoScriptError:
                return await self._pipe.ask(pack(("EVAL", text, len(keys), *keys, *args)))

    async def read_blocking(self, command: tuple[str | int, ...], block_ms: int) -> list[tuple[bytes, list[Any]]]:
        """The entries of one stream that XREAD or XREADGROUP answers with, as (id, [name, value, name, ...]).

        Without redis-py's making of it, which costs more than the read. Raises QueueUnavailable, as `blocked`.
        """
        with translated():
            answer = await self._lanes.ask(pack(command), block_ms / 1000 + self.timeout_s)
        if not answer:
            return []
        entries: list[tuple[bytes, list[Any]]] = (
            next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
        )
        return entries

    async def blocked(self, read: Awaitable[Any], block_ms: int) -> Any:
        """The answer of a read that blocks on the server for `block_ms`, with one timeout more for the way.

        Without that bound a peer that vanished without a word would be waited for until it came back: for ever.
        Raises QueueUnavailable.
        """
        with translated():
            async with asyncio.timeout(block_ms / 1000 + self.timeout_s):
                return await read

    async def listen(self, channel: str, hear: Hear) -> None:
        """Call `hear` with each message of a channel. Returns only by raising QueueUnavailable."""
        with translated():
            made = self.blocking.connection_pool.make_connection()
            await listen(made, channel, hear, connect_s=self.timeout_s)

    async def ping(self) -> None:
        """Raises QueueUnavailable unless Redis answers in time."""
        with translated():
            await self.redis.ping()

    async def close(self) -> None:
        """Give all connections back."""
        await self.redis.aclose()
        await self.blocking.aclose()


def _pool(url: str, password: str | None, connect_s: float, answer_s: float | None) -> redis.asyncio.ConnectionPool:
    pool = redis.asyncio.ConnectionPool.from_url(
        url,
        password=password,
        socket_timeout=answer_s,
        socket_connect_timeout=connect_s,
        health_check_interval=0 if answer_s else 15,  # of pub/sub
    )
    pool.connection_class = KINDS.get(pool.connection_class, pool.connection_class)
    return pool


@cache
def _script(name: str) -> tuple[str, str]:
    """A script's text and its name in Redis."""
    folder = files("services.store").joinpath("lua")
    text = "".join(folder.joinpath(f"{part}.lua").read_text() for part in (*PREPENDED.get(name, ()), name))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class translated:  # noqa: N801  (reads as a word in `with translated():`)
    """Redis and socket errors leave this block as QueueUnavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (RedisError, OSError, TimeoutError)):
            raise QueueUnavailable(f"Redis: {type(error).__name__}: {error}") from error


@asynccontextmanager
async def connect(
    url: str, *, password: str | None = None, timeout_s: float = 2.0, patience_s: float = 0.0
) -> AsyncIterator[Connection]:
    """A connection that answers, closed at the end. Raises QueueUnavailable when it still does not after
    `patience_s`."""
    connection = Connection(url, password=password, timeout_s=timeout_s)
    try:
        await _answering(connection, patience_s)
        yield connection
    finally:
        await connection.close()


async def _answering(connection: Connection, patience_s: float) -> None:
    until_s = monotonic() + patience_s
    while True:
        try:
            await connection.ping()
        except QueueUnavailable as error:
            if monotonic() >= until_s:
                raise
            log.warning("queues.awaited", why=str(error))
        else:
            return
        await asyncio.sleep(PAUSE_S)


async def retried(
    step: Callable[[], Awaitable[T]], *, pauses_s: Sequence[float] = RETRY_PAUSES_S, tries_max: int | None = None
) -> T:
    """What `step` returns, once Redis answers. The last pause repeats.

    Raises QueueUnavailable after `tries_max` tries; None: never, since what the caller holds must not be lost.
    """
    tries = 0
    while True:
        try:
            return await step()
        except QueueUnavailable as error:
            tries += 1
            if tries == tries_max:
                raise
            if tries == 1:
                log.warning("queues.retry", why=str(error))
            await asyncio.sleep(pauses_s[min(tries, len(pauses_s)) - 1])


def read_password(path: Path | None) -> str | None:
    """The password in a file, without its newline."""
    return path.read_text().strip() if path else None


def pairs(values: list[bytes]) -> dict[bytes, bytes]:
    """A stream entry's fields, from a list of names and values in turn."""
    return dict(zip(values[::2], values[1::2], strict=True))
