"""One socket for all commands of a process: they go out in the order in which they are asked, those of one moment
together, and answers come back in that order.

redis-py connects (address, TLS, password, protocol) and names the errors. Its asynchronous client then lends a socket
to one command at a time, with locks and timers for each, which costs several times what the command does. Here the
commands share the socket, one timer watches over all of them, and a caller that gives up leaves its answer to be thrown
away: none shifts.

    a socket breaks      what is unanswered goes out once more, over a new one, in the same order; then it fails
    an answer is late    its caller fails, and no new command takes that socket; those behind it keep their own time
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.store.sockets import HandoverConnection

COMMANDS_MAX = 20_000  # on their way at once: more means that Redis is far behind
CONNECT_TRIES_MAX = 2
GATHER_S = 0.003  # that a command may wait for others to go out with
EARLY_S = 0.002  # that a timer may come too soon
NOTHING = object()


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
        self._timer: asyncio.TimerHandle | None = None

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
        if self._timer is None or due_s < self._timer.when():
            self._watch(loop, due_s)
        return sent.future

    def _watch(self, loop: asyncio.AbstractEventLoop, due_s: float) -> None:
        """One timer for all: it is set anew only when it fires."""
        if self._timer is not None:
            self._timer.cancel()
        if due_s < float("inf"):
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
