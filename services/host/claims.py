"""Claims what two hosts cannot share: the data folder and the port."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from services.process.ports import free_port


class AlreadyClaimed(Exception):
    """The data folder or the port is in use. The message names it, and the process that uses it."""


@contextmanager
def data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Lock the data folder. Raises AlreadyClaimed. The kernel releases the lock however this process ends."""
    path = data_dir / "lock"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise AlreadyClaimed(f"data_dir {data_dir}: cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise AlreadyClaimed(
                f"data_dir {data_dir}: another `bunkhouse up` (process {holder}) runs on it. Stop that one, or set "
                "another data_dir."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def gateway_port(host: str, port: int) -> int:
    """The port that the gateway will bind. Raises AlreadyClaimed, with the process that holds it."""
    try:
        return free_port(host, port)
    except socket.gaierror as error:
        raise AlreadyClaimed(f"gateway.host {host!r} is not an address of this machine: {error.strerror}") from error
    except OSError as error:
        raise AlreadyClaimed(
            f"gateway.port {port} on {host} cannot be used: {error.strerror}{_holder(port)}. Set another port: "
            f"BUNKHOUSE__GATEWAY__PORT={port + 1} bunkhouse up ..."
        ) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                name = psutil.Process(connection.pid).name() if connection.pid else "another user's process"
                return f" (held by {name}, process {connection.pid})"
    except psutil.Error:
        pass
    return ""
