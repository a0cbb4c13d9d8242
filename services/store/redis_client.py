"""The client of Redis: all that rests on redis-py's private names.

**Sockets.** redis-py connects (address, TLS, password, protocol) and names the errors; once it is connected, others can
share its socket. redis-py 8.1 sends through `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that comes
while the last byte goes out (python/cpython#86296): the task lives on, and whoever cancelled it waits for ever. It also
costs a task a command. `asyncio.timeout` does neither. And its asynchronous side packs commands in Python where its
other side lets hiredis do it, at a tenth of the time.

**One socket for all commands of a process.** They go out in the order in which they are asked, those of one moment
together, and answers come back in that order. redis-py's asynchronous client lends a socket to one command at a time,
with locks and timers for each, which costs several times what the command does. Here one timer watches over all of
them, and a caller that gives up leaves its answer to be thrown away: none shifts.

    a socket breaks      what is unanswered goes out once more, over a new one, in the same order; then it fails
    an answer is late    its caller fails, and no new command takes that socket; those behind it keep their own time

**Pub/sub.** Messages of one channel, straight from the socket: no task, no timer and no queue for a message.

**Client.** redis-py's methods and its parsed answers, over these.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Protocol

import hiredis
import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

COMMANDS_MAX = 20_000  # on their way at once: more means that Redis is far behind
CONNECT_TRIES_MAX = 2
GATHER_S = 0.003  # that a command may wait for others to go out with
EARLY_S = 0.002  # that a timer may come too soon
NOTHING = object()
PING_S = 15.0  # a peer that vanished without a word is noticed within twice that
IDLE_MAX = 8  # sockets kept for blocking reads
Hear = Callable[[bytes], None]


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


class Sent:
    """One command, or with `commands` several in one piece. Its result is an answer, or a list of theirs; an exception
    when it failed."""

    __slots__ = ("answers", "commands", "data", "due_s", "future", "resent")

    def __init__(self, data: bytes, commands: int | None, future: asyncio.Future[Any], due_s: float) -> None:
        self.data = data
        self.commands = commands
        self.answers: list[Any] = []
        self.future = future  # cancelled when the caller went away
        self.due_s = due_s  # on the loop's clock
        self.resent = False

    def take(self, answer: Any) -> bool:
        """One more answer. True when it was the last."""
        if self.commands is None:
            self.finish(answer)
            return True
        self.answers.append(answer)
        if len(self.answers) < self.commands:
            return False
        self.finish(self.answers)
        return True

    def finish(self, answer: Any) -> None:
        # An exception as a result: nobody is told that it was not looked at when its caller has just been cancelled.
        if not self.future.done():
            self.future.set_result(answer)


class Socket(asyncio.Protocol):
    """One connected socket and the commands on it, oldest first. `broken(link, error)` is called once."""

    def __init__(self, connection: HandoverConnection, broken: Callable[[Socket, Exception], None]) -> None:
        self.sent: deque[Sent] = deque()
        self._connection = connection
        self._broken = broken
        self._open = True
        self._out: list[bytes] = []
        self._until_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._reader = connection.answer_reader(NOTHING)
        self._transport = connection.hand_over(self)

    def send(self, sent: Sent) -> None:
        """It goes out after a turn of the loop in which no other command came, or after the turn in which `GATHER_S`
        ran out: a write wakes Redis, which then wants the core that we run on."""
        self.sent.append(sent)
        if not self._out:
            self._until_s = self._loop.time() + GATHER_S
            self._loop.call_soon(self._write, 0)
        self._out.append(sent.data)

    def _write(self, before: int) -> None:
        gathered = len(self._out)
        if gathered > before and self._loop.time() < self._until_s:
            self._loop.call_soon(self._write, gathered)
            return
        out, self._out = self._out, []
        if self._open:
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not NOTHING:
                if isinstance(answer, hiredis.PushNotification):
                    continue
                if not self.sent:
                    raise RedisConnectionError("Redis answered what it was not asked")
                if isinstance(answer, RedisConnectionError):  # it says so: loading, wrong password
                    raise answer
                if self.sent[0].take(answer):
                    self.sent.popleft()
        except RedisError as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(RedisConnectionError(f"Connection closed by server{f': {exc}' if exc else ''}"))

    def end(self, error: Exception) -> None:
        """Close the socket; what is unanswered is the owner's to fail or to repeat."""
        if self._open:
            self._open = False
            self._connection.let_go()
            self._broken(self, error)


class SharedConnection:
    """Commands to one Redis. `make` makes an unconnected redis-py connection.

    `answer_s` bounds the wait for each answer, connecting included; None: the answer may take for ever, as those of
    reads that block do. `repeat`: send again, once, what a broken socket left unanswered.
    """

    def __init__(
        self, make: Callable[[], HandoverConnection], *, connect_s: float, answer_s: float | None, repeat: bool = True
    ) -> None:
        self._make = make
        self._connect_s = connect_s
        self._answer_s = float("inf") if answer_s is None else answer_s
        self._repeat = repeat
        self._closed = False
        self._link: Socket | None = None  # that new commands take
        self._links: set[Socket] = set()
        self._waiting: deque[Sent] = deque()  # for a link
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_s = 0.0  # when it fires. uvloop's handle of a time that is now does not tell

    async def ask(self, data: bytes, within_s: float | None = None) -> Any:
        """The answer to one packed command, within another time than `answer_s`. Raises redis-py's errors."""
        answer = await self._send(data, None, within_s)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all(self, data: bytes, commands: int) -> list[Any]:
        """The answers to several commands, packed one after another; nobody else's come between. A command's own error
        stands in its place. Raises redis-py's ConnectionError and TimeoutError."""
        answers: list[Any] | Exception = await self._send(data, commands)
        if isinstance(answers, Exception):
            raise answers
        return answers

    def close(self) -> None:
        """Fail what is on its way, and all that comes after."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        for link in list(self._links):
            link.end(_gone())
        self._fail_waiting(_gone())

    def _send(self, data: bytes, commands: int | None, within_s: float | None = None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise _gone()
        link = self._link
        if len(self._waiting if link is None else link.sent) >= COMMANDS_MAX:
            raise RedisConnectionError(f"{COMMANDS_MAX} commands wait for an answer")
        due_s = loop.time() + (self._answer_s if within_s is None else within_s)
        sent = Sent(data, commands, loop.create_future(), due_s)
        if link is None:
            self._waiting.append(sent)
            self._connect()
        else:
            link.send(sent)
        if self._timer is None or due_s < self._timer_s:
            self._watch(loop, due_s)
        return sent.future

    def _watch(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        """One timer for all: it is set anew only when it fires."""
        if self._timer is not None:
            self._timer.cancel()
        if due_s < float("inf"):
            self._timer_s = due_s
            self._timer = loop.call_at(due_s, self._late, loop)

    def _late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time() + EARLY_S
        for link in list(self._links):
            if any(sent.due_s <= now for sent in link.sent) and link is self._link:
                self._link = None
        for sent in chain(self._waiting, *(link.sent for link in self._links)):
            if sent.due_s <= now:
                sent.finish(RedisTimeoutError("Timeout reading from socket"))
        for link in list(self._links):
            if link is not self._link and all(sent.future.done() for sent in link.sent):
                link.end(RedisTimeoutError("Timeout reading from socket"))
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()
        left = [sent.due_s for sent in chain(self._waiting, *(link.sent for link in self._links)) if sent.due_s > now]
        if left:
            self._watch(loop, min(left))

    def _connect(self) -> None:
        """See that what waits goes out."""
        if self._link is not None:
            while self._waiting:
                sent = self._waiting.popleft()
                if not sent.future.done():
                    self._link.send(sent)
        elif self._opening is None and self._waiting:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail_waiting(RedisConnectionError(f"cannot connect: {error!r}"))
        if not self._closed:
            self._connect()

    async def _open(self) -> None:
        """A link for what waits, or its failure. A Redis that is silent is tried again while somebody waits."""
        tries = 0
        while any(not sent.future.done() for sent in self._waiting):
            connection = self._make()
            try:
                async with asyncio.timeout(self._connect_s):
                    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types here
                self._link = Socket(connection, self._ended)
                self._links.add(self._link)
                self._connect()  # before a command that comes now
                return
            except (TimeoutError, RedisTimeoutError):
                continue
            except (RedisError, OSError) as error:
                tries += 1
                if tries == CONNECT_TRIES_MAX:
                    self._fail_waiting(error)
            finally:
                if self._link is None:
                    connection.let_go()

    def _ended(self, link: Socket, error: Exception) -> None:
        self._links.discard(link)
        if link is self._link:
            self._link = None
        for sent in reversed(link.sent):
            if sent.resent or self._closed or not self._repeat:
                sent.finish(_another(error))
            elif not sent.future.done():
                sent.resent = True
                sent.answers = []
                self._waiting.appendleft(sent)
        link.sent.clear()
        if not self._closed:
            self._connect()

    def _fail_waiting(self, error: Exception) -> None:
        for sent in self._waiting:
            sent.finish(_another(error))
        self._waiting.clear()


def _gone() -> RedisConnectionError:
    return RedisConnectionError("the connection was closed")


def _another(error: Exception) -> Exception:
    """One for each caller: raising it writes into it."""
    return type(error)(*error.args)


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
