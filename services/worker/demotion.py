"""Lowers the KV bits of running chats and reports it to the scheduler.

The scheduler then gives their memory to others. So only chats that the engine confirmed are reported: a chat that is
still on its way, in HTTP or in the engine's tokenizer, arrives with the bits that it was sent with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from services.contracts.chats import KvBits
from services.engines.base import EngineError
from services.store.connection import retried
from services.store.work import WorkConsumer
from services.worker.chat import RunningChat
from services.worker.engine_supervisor import EngineSupervisor

AT_ONCE_MAX = 16  # an engine answers all requests that came meanwhile between two steps
AGAIN_S = 0.5
LATE_S_MAX = 300.0  # for a chat that the engine does not have yet

log = structlog.get_logger()


class Demoter:
    """`running` are one worker's chats, by name."""

    def __init__(self, work: WorkConsumer, supervisor: EngineSupervisor, running: Mapping[str, RunningChat]) -> None:
        self._work = work
        self._supervisor = supervisor
        self._running = running
        self._gate = asyncio.Semaphore(AT_ONCE_MAX)
        self._late: set[asyncio.Task[None]] = set()

    async def one(self, chat: str, bits: KvBits) -> None:
        """The scheduler wants the memory of one chat. If the engine refuses, the scheduler asks again."""
        running = self._running.get(chat)
        if running is not None and (why := await self._lower(running, bits)) is not None:
            log.warning("chat.not_demoted", chat=chat, bits=int(bits), why=why)

    async def everyone(self, bits: KvBits) -> None:
        """After the engine lowered all chats that it has. Returns when each was checked; those that had not arrived are
        checked again in the background until they are low or end."""
        if bits >= max(self._supervisor.facts.kv_bytes_per_token):
            return
        chats = list(self._running.values())
        for running, why in zip(chats, await asyncio.gather(*(self._lower(each, bits) for each in chats)), strict=True):
            if why is not None:
                task = asyncio.create_task(self._until_low(running, bits))
                self._late.add(task)
                task.add_done_callback(self._late.discard)

    async def _until_low(self, running: RunningChat, bits: KvBits) -> None:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + LATE_S_MAX
        why: str | None = ""
        while why is not None and loop.time() < give_up_s:
            await asyncio.sleep(AGAIN_S)
            if self._running.get(running.chat) is not running or self._supervisor.facts.kv_bits > bits:
                return  # it ended, or another order came
            why = await self._lower(running, bits)
        if why is not None:
            log.warning("chat.not_demoted", chat=running.chat, bits=int(bits), why=why)

    async def _lower(self, running: RunningChat, bits: KvBits) -> str | None:
        """None where it is low now, else why not."""
        engine, has = running.engine, running.kv_bits
        if engine is None or has is None:
            return "it is with no engine"
        if has <= bits:
            return None
        try:
            async with self._gate:
                await engine.set_chat_kv_bits(running.chat, bits)
        except EngineError as error:
            return str(error)
        running.kv_bits = bits
        await retried(lambda: self._work.demoted(running.chat, bits))
        return None
