"""Addresses that servers of this machine listen on."""

from __future__ import annotations

import random
import socket
from pathlib import Path

ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  (recognised here, not bound)


def url_host(host: str) -> str:
    """`host` of a server as a URL on this machine names it: any address becomes 127.0.0.1, IPv6 gets brackets."""
    if host in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, TRIES = 20_000, 100


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """`port` if nobody listens there; any free one for 0. Raises OSError, socket.gaierror for an unknown host.

    The caller binds it later, some engines after a minute. Until then any connection that leaves this machine may take
    a port of the kernel's range for them, so any free one means one below that range, where there is room.
    """
    for _ in range(TRIES if port == 0 else 0):
        try:
            return _probed(host, random.randrange(LOWEST, max(LOWEST + 1, _ephemeral_from())))
        except socket.gaierror:
            raise
        except OSError:
            continue
    return _probed(host, port)


def _ephemeral_from() -> int:
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return LOWEST


def _probed(host: str, port: int) -> int:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])
