"""One HTTP request to an address that a tenant or an operator chose, which must not become a way into the host's own
network. Webhooks and bots' actions leave through here.

- https:// to a public address, or http(s):// to this machine by its loopback name. Nothing else.
- The name is resolved once, every address it gives is checked, and the connection goes to a checked address: a name
  that answers differently a moment later gains nothing.
- Redirects are not followed, no more of the answer is read than asked for, proxies from the environment are not used.
- All of it has one time limit: a server that drips its answer holds up nobody else's.
Fails closed: a name with one forbidden address is refused.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

import httpx

from services.config.urls import endpoint, is_loopback

IDLE_S_MAX = 5.0  # of connecting, and of each read and write
Resolve = Callable[[str, int], Awaitable[list[str]]]


class OutgoingFailed(Exception):
    """There was no answer. `final`: trying again cannot help. `sent`: the other side may have seen the request."""

    def __init__(self, why: str, *, final: bool = False, sent: bool = False) -> None:
        super().__init__(why)
        self.final = final
        self.sent = sent


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """What is sent, and what may come back. `limit_s`: of all of it. `answer_bytes_max`: 0 reads no body."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    limit_s: float = 15.0
    idle_s_max: float = IDLE_S_MAX
    answer_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class OutgoingAnswer:
    """An answer, whatever its status. `whole` is False where its body was longer than asked for."""

    status: int
    content_type: str = ""
    body: bytes = b""
    whole: bool = True


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name. Raises OutgoingFailed."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OutgoingFailed(f"{host} cannot be resolved: {error.strerror}") from error
    return [str(entry[4][0]) for entry in found]


def allowed(address: str, *, loopback: bool) -> bool:
    """Whether a request may go there. IPv4 inside IPv6 counts as the IPv4 it is."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        found = inner or found
    if loopback:
        return found.is_loopback
    return found.is_global and not found.is_multicast and not found.is_reserved


async def send(request: OutgoingRequest, *, resolver: Resolve = resolve) -> OutgoingAnswer:
    """Send it once. Raises OutgoingFailed where no answer came."""
    try:
        host, port = endpoint(request.url)
        target = httpx.URL(request.url)
    except (ValueError, httpx.InvalidURL) as error:
        raise OutgoingFailed(f"the URL cannot be used: {error}", final=True) from error
    loopback = is_loopback(host)
    if target.scheme not in ("http", "https") or (target.scheme != "https" and not loopback):
        raise OutgoingFailed(f"{host}: only https is used outside this machine", final=True)
    try:
        async with asyncio.timeout(request.limit_s):
            addresses = await resolver(host, port)
            if not addresses or not all(allowed(address, loopback=loopback) for address in addresses):
                raise OutgoingFailed(f"{host} leads to an address that requests may not reach", final=True)
            return await _first_that_answers(request, target, addresses)
    except TimeoutError:
        raise OutgoingFailed(f"{host} took longer than {request.limit_s:g} s", sent=True) from None


async def _first_that_answers(request: OutgoingRequest, url: httpx.URL, addresses: list[str]) -> OutgoingAnswer:
    for address in addresses:
        try:
            return await _send(request, url, address)
        except httpx.ConnectError as error:
            last = error  # nothing was sent: the name's next address may be the one that listens
        except (httpx.HTTPError, OSError) as error:
            raise OutgoingFailed(f"{url.host}: {type(error).__name__}: {error}", sent=True) from error
    raise OutgoingFailed(f"{url.host} cannot be reached: {last}") from last


async def _send(request: OutgoingRequest, url: httpx.URL, address: str) -> OutgoingAnswer:
    """The certificate is checked against the name, though the connection goes to the address."""
    async with (
        httpx.AsyncClient(timeout=request.idle_s_max, trust_env=False, follow_redirects=False) as client,
        client.stream(
            request.method,
            url.copy_with(host=address),
            content=request.body,
            headers={**request.headers, "host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as answer,
    ):
        body, whole = await _read(answer, request.answer_bytes_max)
        return OutgoingAnswer(answer.status_code, answer.headers.get("content-type", ""), body, whole)


async def _read(answer: httpx.Response, bytes_max: int) -> tuple[bytes, bool]:
    """Up to `bytes_max` of the body as it was decoded, and whether that is all."""
    body = bytearray()
    if bytes_max:
        async for part in answer.aiter_bytes(min(bytes_max, 65_536)):
            body += part
            if len(body) > bytes_max:
                return bytes(body[:bytes_max]), False
    return bytes(body), True
