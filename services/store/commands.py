"""Commands to a model's worker, with progress and results, and what is to survive the worker.

One command at a time per model. It is stored, and a hint on the control channel points at it: a lost hint costs
seconds, a worker that dies leaves a command `running` behind, which the next worker ends as `failed`.

    sent -> running -> done | failed
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypedDict

import orjson

from services.contracts.control import ControlMessage
from services.store import redis_keys as keys
from services.store.connection import Connection, translated
from services.store.records import encode


class CommandState(StrEnum):
    """How far a command is."""

    SENT = "sent"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


ENDED = (CommandState.DONE, CommandState.FAILED)


class Power(StrEnum):
    """Whether a model is to be up. A sleeping one is woken by a chat; an unloaded one only by an operator."""

    UP = "up"
    ASLEEP = "asleep"
    UNLOADED = "unloaded"


class CommandArgs(TypedDict, total=False):
    """Of `kv_bits` only."""

    bits: int
    how: str  # as in KvChangePlan


class CommandResult(TypedDict, total=False):
    """`kv_bits`: those that the engine has in the end."""

    kv_bits: int
    cancelled: bool
    restarted: bool  # the worker, in the middle of it


@dataclass(frozen=True, slots=True)
class Command:
    """What a worker is to do. `kind`: kv_bits | sleep | unload | wake | load."""

    id: str
    kind: str
    args: CommandArgs = field(default_factory=CommandArgs)
    state: CommandState = CommandState.SENT
    progress: float = 0.0
    words: str = ""
    result: CommandResult | None = None
    error: str | None = None
    at_s: float = 0.0
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class DesiredState:
    """How a model's next worker is to start it.

    `kv_bits` were verified by a probe chat. `configured` is what the configuration file said then: once the file says
    something else, the file counts.
    """

    kv_bits: int | None = None
    configured: int | str | None = None
    power: Power = Power.UP


class Commands:
    """Both ends of the commands. Methods raise QueueUnavailable."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(self, model: str, command: Command) -> bool:
        """Give a command. The same id again changes nothing. False while another one runs."""
        answer = await self._connection.script(
            "command",
            [keys.command(model)],
            [
                command.id,
                command.kind,
                orjson.dumps(command.args),
                command.at_s,
                keys.control_channel(model),
                encode(ControlMessage(command=command.id)),
            ],
        )
        return bool(answer != b"busy")

    async def read(self, model: str) -> Command | None:
        """The last command of a model, as far as it is."""
        with translated():
            stored = await self._connection.redis.hgetall(keys.command(model))
        return _decode(stored) if stored else None

    async def cancel(self, model: str, command_id: str) -> None:
        """Ask for a command to be given up. It counts until the engine is being stopped."""
        with translated():
            if await self._connection.redis.hget(keys.command(model), "id") == command_id.encode():
                await self._connection.redis.hset(keys.command(model), "cancelled", 1)

    async def take(self, model: str, command_id: str) -> bool:
        """The worker's side: begin it. False: it was withdrawn."""
        answer = await self._connection.script("take_command", [keys.command(model)], [command_id])
        return bool(answer)

    async def withdraw(self, model: str, command_id: str, why: str) -> bool:
        """Take back a command that no worker has begun. False: one has, or it ended."""
        answer = await self._connection.script("withdraw", [keys.command(model)], [command_id, why])
        return bool(answer)

    async def write(self, model: str, **values: object) -> None:
        """The worker's side: `state`, `progress`, `words`, `result`, `error`."""
        stored = {
            name: orjson.dumps(value) if name == "result" else str(value)
            for name, value in values.items()
            if value is not None
        }
        with translated():
            await self._connection.redis.hset(keys.command(model), mapping=stored)

    async def demote(self, model: str, chats: Iterable[str], bits: int) -> None:
        """Ask a worker to lower running chats."""
        await send_control(self._connection, model, [ControlMessage(demote=chat, bits=bits) for chat in chats])

    async def desired(self, model: str) -> DesiredState:
        """How the model is to be started."""
        with translated():
            stored = await self._connection.redis.hget(keys.DESIRED, model)
        values = orjson.loads(stored) if stored else {}
        return DesiredState(values.get("kv_bits"), values.get("configured"), Power(values.get("power", Power.UP)))

    async def desire(self, model: str, **changes: Any) -> DesiredState:
        """Change how the model is to be started. Only its worker writes this."""
        desired = replace(await self.desired(model), **changes)
        with translated():
            await self._connection.redis.hset(keys.DESIRED, model, orjson.dumps(desired))
        return desired


async def send_control(connection: Connection, model: str, messages: Iterable[ControlMessage]) -> None:
    """Publish messages to a model's worker. Raises QueueUnavailable."""
    with translated():
        for message in messages:
            await connection.redis.publish(keys.control_channel(model), encode(message))


def _decode(stored: dict[bytes, bytes]) -> Command:
    values = {name.decode(): value.decode() for name, value in stored.items()}
    return Command(
        id=values["id"],
        kind=values["kind"],
        args=orjson.loads(values["args"]),
        state=CommandState(values["state"]),
        progress=float(values.get("progress", 0)),
        words=values.get("words", ""),
        result=orjson.loads(values["result"]) if "result" in values else None,
        error=values.get("error"),
        at_s=float(values.get("at_s", 0)),
        cancelled="cancelled" in values,
    )
