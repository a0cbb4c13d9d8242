"""One POST to an address that a tenant chose, which must not become a way into the host's own network.

- https:// to a public address, or http(s):// to this machine by its loopback name. Nothing else.
- The name is resolved once, every address it gives is checked, and the connection goes to a checked address: a name
  that answers differently a moment later gains nothing.
- Redirects are not followed, the answer's body is not read, proxies from the environment are not used.
- All of it takes DELIVERY_S_MAX at most: a receiver that drips its answer holds up nobody else's.
Fails closed: a name with one forbidden address is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address

import httpx

from services.config.urls import endpoint, is_loopback

TIMEOUT_S = 5.0  # of connecting, and of each read and write
DELIVERY_S_MAX = 15.0  # below handover.IN_HAND_S
FINAL = frozenset({400, 401, 403, 404, 405, 410, 413, 422})  # statuses that a second try does not change
Resolve = Callable[[str, int], Awaitable[list[str]]]


class WebhookFailed(Exception):
    """It was not delivered. `final`: trying again cannot help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name. Raises WebhookFailed."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise WebhookFailed(f"{host} cannot be resolved: {error.strerror}") from error
    return [str(entry[4][0]) for entry in found]


def allowed(address: str, *, loopback: bool) -> bool:
    """Whether a webhook may connect there. IPv4 inside IPv6 counts as the IPv4 it is."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        found = inner or found
    if loopback:
        return found.is_loopback
    return found.is_global and not found.is_multicast and not found.is_reserved


def signature(secret: str, at_s: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 over `SECONDS.BODY`, so that an old delivery cannot be played again."""
    mac = hmac.new(secret.encode(), b"%d." % at_s + body, hashlib.sha256)
    return f"t={at_s},v1={mac.hexdigest()}"


async def post(url: str, body: bytes, headers: dict[str, str], *, resolver: Resolve = resolve) -> None:
    """Deliver once. Raises WebhookFailed."""
    try:
        host, port = endpoint(url)
        target = httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise WebhookFailed(f"the webhook's URL cannot be used: {error}", final=True) from error
    loopback = is_loopback(host)
    if target.scheme != "https" and not loopback:
        raise WebhookFailed(f"{host}: only https is used outside this machine", final=True)
    try:
        async with asyncio.timeout(DELIVERY_S_MAX):
            addresses = await resolver(host, port)
            if not addresses or not all(allowed(address, loopback=loopback) for address in addresses):
                raise WebhookFailed(f"{host} leads to an address that webhooks may not reach", final=True)
            status = await _first_that_answers(target, addresses, body, headers)
    except TimeoutError:
        raise WebhookFailed(f"{host} took longer than {DELIVERY_S_MAX:g} s") from None
    if not 200 <= status < 300:
        raise WebhookFailed(f"{host} answered {status}", final=status in FINAL)


async def _first_that_answers(url: httpx.URL, addresses: list[str], body: bytes, headers: dict[str, str]) -> int:
    for address in addresses:
        try:
            return await _send(url, address, body, headers)
        except httpx.ConnectError as error:
            last = error  # nothing was sent: the name's next address may be the one that listens
        except (httpx.HTTPError, OSError) as error:
            raise WebhookFailed(f"{url.host}: {type(error).__name__}: {error}") from error
    raise WebhookFailed(f"{url.host} cannot be reached: {last}") from last


async def _send(url: httpx.URL, address: str, body: bytes, headers: dict[str, str]) -> int:
    """The answer's status. The certificate is checked against the name, though the connection goes to the address."""
    own = {"host": url.netloc.decode("ascii"), "content-type": "application/json"}
    async with (
        httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
        client.stream(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers=headers | own,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as answer,
    ):
        return answer.status_code
