"""redis-py's client, with its methods and its parsed answers, over `services.store.shared_connection`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from services.store.shared_connection import SharedConnection
from services.store.sockets import pack

IDLE_MAX = 8


class Transport(Protocol):
    """How commands get to Redis and answers back."""

    async def ask(self, data: bytes) -> Any: ...

    async def ask_all(self, data: bytes, commands: int) -> list[Any]: ...

    def close(self) -> None: ...


class BlockingPool:
    """For reads that block: a socket for each that is on its way, kept for the next one. Nothing is sent twice."""

    def __init__(self, make: Callable[[], SharedConnection]) -> None:
        self._make = make
        self._idle: list[SharedConnection] = []

    async def ask(self, data: bytes, within_s: float | None = None) -> Any:
        """The answer to one packed command. Raises redis-py's errors."""
        pipe = self._idle.pop() if self._idle else self._make()
        whole = False
        try:
            answer = await pipe.ask(data, within_s)
            whole = True
        finally:
            if whole and len(self._idle) < IDLE_MAX:
                self._idle.append(pipe)
            else:
                pipe.close()  # its answer may be still to come
        return answer

    async def ask_all(self, data: bytes, commands: int) -> list[Any]:
        raise NotImplementedError("a pipeline does not block")

    def close(self) -> None:
        """Close the sockets that nobody reads from."""
        while self._idle:
            self._idle.pop().close()


class Client(redis.asyncio.Redis):
    """`pool` serves for its connections' settings, and for pub/sub, which has sockets of its own."""

    def __init__(self, pool: redis.asyncio.ConnectionPool, way: Transport) -> None:
        super().__init__(connection_pool=pool)
        self.way = way

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Raises redis-py's errors."""
        return await self.made_of(args[0], await self.way.ask(pack(args)), options)

    async def made_of(self, name: str | bytes, answer: Any, options: Mapping[str, Any]) -> Any:
        """What redis-py's methods promise to return."""
        make = self.response_callbacks.get(name)
        if make is None:
            return answer
        made = make(answer, **{key: value for key, value in options.items() if key != "keys"})
        return await made if inspect.isawaitable(made) else made

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Batch:
        """Several commands in one piece. There is no WATCH: the socket is everybody's."""
        return Batch(self, transaction, shard_hint)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all sockets."""
        self.way.close()
        await super().aclose(close_connection_pool)
        await self.connection_pool.disconnect()  # a client that was given its pool leaves it open


class Batch(Pipeline):
    """redis-py's pipeline: with `transaction`, between MULTI and EXEC."""

    def __init__(self, client: Client, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    async def immediate_execute_command(self, *args: Any, **_: Any) -> Any:
        raise RedisError(f"{args[0]} needs a socket of its own")

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The commands' answers. Raises redis-py's errors; with `raise_on_error` also the first of a command."""
        commands = self.command_stack
        if not commands:
            return []
        try:
            answers = await (self._at_once() if self.is_transaction else self._one_by_one())
            if raise_on_error:
                self.raise_first_error(commands, answers)
            return [
                answer if isinstance(answer, Exception) else await self._client.made_of(args[0], answer, options)
                for (args, options), answer in zip(commands, answers, strict=True)
            ]
        finally:
            await self.reset()  # type: ignore[no-untyped-call]  # redis-py has no types here

    async def _one_by_one(self) -> list[Any]:
        data = b"".join(pack(args) for args, _ in self.command_stack)
        return await self._client.way.ask_all(data, len(self.command_stack))

    async def _at_once(self) -> list[Any]:
        data = b"".join(pack(args) for args in (("MULTI",), *(args for args, _ in self.command_stack), ("EXEC",)))
        *queued, done = await self._client.way.ask_all(data, len(self.command_stack) + 2)
        if isinstance(done, Exception):
            raise next((answer for answer in queued if isinstance(answer, ResponseError)), done)
        if done is None or len(done) != len(self.command_stack):
            raise RedisConnectionError("an answer to EXEC of another length")
        return list(done)
