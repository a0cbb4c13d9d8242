"""Addresses that servers of this machine listen on."""

from __future__ import annotations

import socket

ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  (recognised here, not bound)


def url_host(host: str) -> str:
    """`host` of a server as a URL on this machine names it: any address becomes 127.0.0.1, IPv6 gets brackets."""
    if host in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """`port` if nobody listens there; any free one for 0. Raises OSError, socket.gaierror for an unknown host.

    The caller binds it a moment later, so another process may still come first.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])
