"""Changes that an engine makes at once: the order goes to its worker, the answer waits for the engine's word."""

from __future__ import annotations

import asyncio
import secrets

from gateway.admin.errors import Conflict, Unavailable
from gateway.state import Gateway
from services.store.commands import Command, Commands, CommandState

ANSWER_S_MAX = 10.0
DEMOTED_S_MAX = 2.0
POLL_S = 0.05


async def live_change(host: Gateway, model: str, bits: int) -> None:
    """KV bits of a model that changes while chats run. Raises Conflict, Unavailable, QueueUnavailable."""
    commands, order = Commands(host.connection), f"live-{secrets.token_hex(6)}"
    if not await commands.send(model, Command(order, "kv_bits", {"bits": bits, "how": "live"}, at_s=host.clock())):
        raise Conflict(f"{model} is carrying out another command.", code="busy")
    command = await _ended(commands, model, order)
    if command is None:
        await commands.withdraw(model, order, "not taken in time")
        raise Unavailable(f"The worker of {model} did not answer within {ANSWER_S_MAX:.0f} s.", code="no_worker")
    if command.state is not CommandState.DONE:
        raise Conflict(f"{command.error} {model} keeps its previous bits.", code="rolled_back")


async def _ended(commands: Commands, model: str, order: str) -> Command | None:
    clock = asyncio.get_running_loop().time
    until_s = clock() + ANSWER_S_MAX
    while clock() < until_s:
        command = await commands.read(model)
        if command is not None and command.id == order and command.ended:
            return command
        await asyncio.sleep(POLL_S)
    return None


async def demote(host: Gateway, model: str, chats: list[str], bits: int) -> bool:
    """Lower running chats. Whether the engine has confirmed all of them in time. Raises QueueUnavailable."""
    await Commands(host.connection).demote(model, chats, bits)
    left = set(chats)
    until_s = asyncio.get_running_loop().time() + DEMOTED_S_MAX
    while left and asyncio.get_running_loop().time() < until_s:
        for chat in list(left):
            info = await host.submissions.chat(chat)
            if info is None or info.state == "done" or (info.kv_bits or 16) <= bits:
                left.discard(chat)
        if left:
            await asyncio.sleep(POLL_S)
    return not left
