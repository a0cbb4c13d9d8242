"""Messages of one pub/sub channel, straight from the socket: no task, no timer and no queue for a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.store.shared_connection import NOTHING
from services.store.sockets import HandoverConnection, pack

PING_S = 15.0  # a peer that vanished without a word is noticed within twice that

Hear = Callable[[bytes], None]


class Subscriber(asyncio.Protocol):
    """One subscribed socket. `ended` is done when it has broken; its result says why."""

    def __init__(self, connection: HandoverConnection, hear: Hear) -> None:
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.heard = False  # anything, since the last ping
        self._hear = hear
        self._reader = connection.answer_reader(NOTHING)
        self._transport = connection.hand_over(self)

    def ask(self, *command: str) -> None:
        self.heard = False
        self._transport.write(pack(command))

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not NOTHING:
                if isinstance(answer, RedisError):
                    raise answer
                if isinstance(answer, list) and answer[0] == b"message":
                    self._hear(answer[2])
        except RedisError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """`exc` may be a mistake of ours in `hear`: then it is told as it is."""
        self._end(exc or RedisConnectionError("Connection closed by server"))

    def _end(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


async def listen(connection: HandoverConnection, channel: str, hear: Hear, *, connect_s: float) -> None:
    """Call `hear` with each message until the socket breaks. Raises redis-py's errors, TimeoutError, OSError."""
    try:
        async with asyncio.timeout(connect_s):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types here
        ear = Subscriber(connection, hear)
        ear.ask("SUBSCRIBE", channel)
        while True:
            await asyncio.wait([ear.ended], timeout=PING_S)
            if ear.ended.done():
                raise ear.ended.result()
            if not ear.heard:
                raise RedisTimeoutError("no answer from Redis")
            ear.ask("PING")
    finally:
        connection.let_go()
