"""Addresses that somebody wrote down, before anything connects to them."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

import idna

URL_CHARS_MAX = 2000
HOST_CHARS_MAX = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def unusable(url: str) -> str | None:
    """Why nothing can be sent to an http(s) URL, whatever listens there."""
    if len(url) > URL_CHARS_MAX or " " in url or not url.isprintable():
        return f"at most {URL_CHARS_MAX} characters, no spaces, all of them printable (got {url!r:.80})"
    try:
        endpoint(url)
    except ValueError as error:
        return f"{error} (got {url!r})"
    return None


def endpoint(url: str) -> tuple[str, int]:
    """Host and port that an http(s) URL leads to, the host as DNS and TLS take it. Raises ValueError that says why."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("a port is a number from 1 to 65535")
    return _ascii_host(parts.hostname or ""), port or (443 if parts.scheme == "https" else 80)


def _ascii_host(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        name = host if host.isascii() else idna.encode(host).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is no host name: {error}") from None
    labels = name.split(".")
    if len(name) > HOST_CHARS_MAX or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host!r} is no host name")
    return name


def is_loopback(host: str) -> bool:
    """Whether a URL's host names this machine and cannot name another."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_reachable(url: str) -> str:
    """The URL, if this host may send requests there. Raises ValueError that says why not."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not (parts.scheme == "https" and host) and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError("it must be https://, or http:// to this machine")
    if parts.username is not None or parts.fragment:
        raise ValueError("leave out user names, passwords and fragments")
    return url
