"""redis-py's connections, whose socket others can share once it is connected, and whose commands hiredis packs.

redis-py 8.1 sends through `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that comes while the last
byte goes out (python/cpython#86296): the task lives on, and whoever cancelled it waits for ever. It also costs a task a
command. `asyncio.timeout` does neither. And its asynchronous side packs commands in Python where its other side lets
hiredis do it, at a tenth of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError


def pack(args: tuple[Any, ...]) -> bytes:
    """One command, as redis-py's HiredisRespSerializer packs it. Raises DataError for what is no str, bytes, int or
    float."""
    name, *rest = args
    try:
        packed: bytes = hiredis.pack_command((*(name.encode() if isinstance(name, str) else name).split(), *rest))
    except TypeError as error:
        raise DataError(str(error)) from None
    return packed


class HandoverConnection(AbstractConnection):
    """What all kinds of socket share."""

    def answer_reader(self, nothing: object) -> hiredis.Reader:
        """A parser for the answers to come, which gives redis-py's errors, and `nothing` when there is no whole one."""
        return hiredis.Reader(protocolError=InvalidResponse, replyError=self._parser.parse_error, notEnoughData=nothing)

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.WriteTransport:
        """Let `protocol` have the connected socket from here on. Raises redis-py's ConnectionError when it is
        closing."""
        # Any: redis-py declares both as perhaps absent, which they are not once connected.
        reader: Any = self._reader
        writer: Any = self._writer
        transport: asyncio.WriteTransport = writer.transport
        if transport.is_closing() or reader.at_eof():
            raise RedisConnectionError("Connection closed by server")
        transport.set_protocol(protocol)
        return transport

    def let_go(self) -> None:
        """Close the socket at once, if there is one."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send one or more commands within `socket_timeout`. Raises redis-py's ConnectionError and TimeoutError."""
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]  # redis-py has no types here
        packed = command.encode() if isinstance(command, str) else command
        # Any: redis-py declares the writer as perhaps absent, which it is not once connected.
        writer: Any = self._writer
        try:
            async with asyncio.timeout(self.socket_timeout or None):
                writer.writelines([packed] if isinstance(packed, bytes) else packed)
                await writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to socket: {error}") from error
        except asyncio.CancelledError:
            await self.disconnect(nowait=True)  # half a command may be out
            raise

    def pack_command(self, *args: Any) -> list[bytes]:
        """As `pack`."""
        return [pack(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """A pipeline's commands, one after another."""
        return [b"".join(pack(tuple(command)) for command in commands)]


class TcpConnection(HandoverConnection, Connection):
    """redis://"""


class TlsConnection(HandoverConnection, SSLConnection):
    """rediss://"""


class UnixConnection(HandoverConnection, UnixDomainSocketConnection):
    """unix://"""


KINDS: dict[type[AbstractConnection], type[HandoverConnection]] = {
    Connection: TcpConnection,
    SSLConnection: TlsConnection,
    UnixDomainSocketConnection: UnixConnection,
}
