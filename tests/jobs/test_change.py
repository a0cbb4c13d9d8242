"""KV bits change under running chats, with the real engine: restarts cost no chat, and a failure goes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from services.contracts.chats import KvBits
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.contracts.replies import Finish
from services.engines.base import Engine, EngineStartError, Progress
from services.engines.factory import build_engine
from services.model_files.weights import resolve
from services.store import redis_keys as keys
from services.store.commands import Command, CommandArgs, Commands, CommandState, Power
from services.store.engine_records import decode_engine
from services.store.work import WorkConsumer
from services.worker.command_runner import CommandDependencies
from services.worker.worker import TAKE_BLOCK_MS, Worker, probe_prompt
from tests.worker.conftest import MODEL, WEIGHTS, Bunk, open_bunk


class Host:
    """A bunk with one worker that takes orders."""

    def __init__(self, bunk: Bunk, idle_after_s: float | None = None) -> None:
        self.bunk = bunk
        self.commands = Commands(bunk.connection)
        self.sent = 0
        self.idle_after_s = idle_after_s
        self.broken: set[KvBits] = set()  # bits that an engine does not come up with

    def build(self, bits: KvBits | None) -> Engine:
        settings = MODEL.model_copy(update={"kv_bits": int(bits or 8)})
        engine = build_engine("m", settings, resolve(WEIGHTS), self.bunk.data_dir)
        change = engine.set_kv_bits

        async def set_kv_bits(to: KvBits, progress: Progress) -> EngineFacts:
            if to in self.broken:
                await engine.stop()
                raise EngineStartError(f"no memory for {to} bits")
            return await change(to, progress)

        setattr(engine, "set_kv_bits", set_kv_bits)  # noqa: B010  (a method of one object)
        return engine

    def worker(self) -> Worker:
        return Worker(
            "m",
            self.build(None),
            self.bunk.tokenizer,
            WorkConsumer(self.bunk.connection, "m", "m@0"),
            reply_keep_s=60,
            drain_s=5,
            clock=time.time,
            dependencies=CommandDependencies(
                self.commands,
                probe_prompt(self.bunk.tokenizer),
                configured=8,
                build=self.build,
                idle_after_s=self.idle_after_s,
            ),
        )

    async def order(self, kind: str, **args: Any) -> str:
        self.sent += 1
        assert await self.commands.send("m", Command(f"c{self.sent}", kind, cast(CommandArgs, args), at_s=time.time()))
        return f"c{self.sent}"

    async def ended(self, command_id: str) -> Command:
        async with asyncio.timeout(60):
            while True:
                command = await self.commands.read("m")
                if command is not None and command.id == command_id and command.ended:
                    return command
                await asyncio.sleep(0.05)

    async def begun(self) -> None:
        """Until a worker carries the command out."""
        async with asyncio.timeout(60):
            while (await self.commands.read("m") or Command("", "")).state is not CommandState.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def state(self) -> tuple[EngineState, int]:
        stored = await self.bunk.connection.redis.hget(keys.ENGINES, "m")
        seen = decode_engine(stored)
        return seen.report.state, int(seen.facts.kv_bits)

    async def until_running(self, bits: int) -> None:
        """Until some chat runs with these bits."""
        async with asyncio.timeout(30):
            while all(held.kv_bits != bits for held in await self.bunk.desk.reservations()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def until(self, state: EngineState) -> None:
        async with asyncio.timeout(30):
            while (await self.state())[0] is not state:  # noqa: ASYNC110  (it stands in Redis)
                await asyncio.sleep(0.05)


@pytest.fixture
async def host(redis_url: str, tmp_path: Path) -> AsyncIterator[Host]:
    async with open_bunk(redis_url, tmp_path) as bunk:
        host = Host(bunk)
        worker = host.worker()
        task = asyncio.create_task(worker.run())
        yield host
        worker.stop()
        await task


async def test_twenty_chats_outlive_16_4_8(host: Host) -> None:
    chats = [await host.bunk.submit(f"Tell me about the number {n}.", max_tokens=24) for n in range(20)]
    answers = asyncio.gather(*(host.bunk.answer(chat.chat) for chat in chats))
    await host.bunk.entries(chats[0].chat, until_text=2)
    for bits, how in ((16, "drain"), (4, "drain"), (8, "replace")):
        command = await host.ended(await host.order("kv_bits", bits=bits, how=how))
        assert (command.state, command.result, command.words) == (CommandState.DONE, {"kv_bits": bits}, "done")
        assert (await host.commands.desired("m")).kv_bits == bits
        await host.until_running(bits)
    ends = [end for _, end in await answers]
    assert {end.finish for end in ends} <= {Finish.STOP, Finish.LENGTH}
    assert all(end.usage and end.usage.completion_tokens > 0 and end.usage.kv_byte_seconds > 0 for end in ends)
    assert {int(end.usage.kv_bits) for end in ends if end.usage} == {4, 8, 16}
    assert await host.bunk.desk.reservations() == []


async def test_a_change_that_fails_goes_back(host: Host) -> None:
    host.broken.add(KvBits.FOUR)
    chat = await host.bunk.submit("Tell me a story.", max_tokens=40)
    await host.bunk.entries(chat.chat, until_text=2)
    command = await host.ended(await host.order("kv_bits", bits=4, how="drain"))
    assert command.state is CommandState.FAILED
    assert command.result == {"kv_bits": 8, "cancelled": False}
    assert "no memory for 4 bits" in (command.error or "")
    assert (await host.commands.desired("m")).kv_bits == 8
    _, end = await host.bunk.answer((await host.bunk.submit("Still there?", max_tokens=8)).chat)
    assert end.finish in (Finish.STOP, Finish.LENGTH)
    assert (await host.bunk.answer(chat.chat))[1].finish in (Finish.STOP, Finish.LENGTH)


async def test_a_drain_can_be_cancelled(host: Host) -> None:
    chat = await host.bunk.submit("Tell me a very long story.", max_tokens=400)
    await host.bunk.entries(chat.chat, until_text=2)
    command_id = await host.order("kv_bits", bits=4, how="drain")
    await host.begun()
    assert not await host.commands.send("m", Command("other", "sleep", at_s=time.time()))
    await host.commands.cancel("m", command_id)
    command = await host.ended(command_id)
    assert command.result == {"kv_bits": 8, "cancelled": True}
    assert await host.bunk.door.cancel(chat, keep_s=60, now_s=time.time())


async def test_a_chat_wakes_a_sleeping_model_but_not_an_unloaded_one(host: Host) -> None:
    await host.ended(await host.order("sleep"))
    await host.until(EngineState.ASLEEP)
    _, end = await host.bunk.answer((await host.bunk.submit("Wake up.", max_tokens=4)).chat)
    assert end.finish in (Finish.STOP, Finish.LENGTH)
    assert (await host.commands.desired("m")).power is Power.UP
    await host.ended(await host.order("unload"))
    await host.until(EngineState.DOWN)
    chat = await host.bunk.submit("Hello?", max_tokens=4)
    await asyncio.sleep(1.5)
    assert (await host.state())[0] is EngineState.DOWN
    await host.ended(await host.order("load"))
    _, end = await host.bunk.answer(chat.chat)
    assert end.finish in (Finish.STOP, Finish.LENGTH)


async def test_a_chat_sent_to_a_model_as_it_was_unloaded_can_be_cancelled(host: Host) -> None:
    _, end = await host.bunk.answer((await host.bunk.submit("Hello.", max_tokens=2)).chat)
    work = WorkConsumer(host.bunk.connection, "m", "m@0")
    seen = await work.last_seen()
    assert seen is not None
    await host.ended(await host.order("unload"))
    redis = host.bunk.connection.redis
    async with asyncio.timeout(60):  # a read of the ready stream that began before would take the chat
        while any(one["idle"] <= TAKE_BLOCK_MS for one in await redis.xinfo_consumers(keys.ready("m"), keys.GROUP)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    chat = await host.bunk.submit("Hello?", max_tokens=4)
    async with asyncio.timeout(60):
        while not await host.bunk.desk.reservations():  # as if the scheduler had not heard of it yet
            await work.publish_engine(seen[0], EngineReport("m", time.time(), EngineState.READY))
            await asyncio.sleep(0.1)
    assert await host.bunk.door.cancel(chat, keep_s=60, now_s=time.time())
    _, end = await host.bunk.answer(chat.chat)
    assert end.finish is Finish.CANCELLED
    assert not await host.bunk.desk.reservations()


async def test_a_command_whose_beginning_was_not_answered_is_begun(host: Host) -> None:
    """Asked twice, for the first answer was lost."""
    assert await host.commands.send("n", Command("c", "sleep", at_s=time.time()))
    assert [await host.commands.take("n", "c") for _ in range(2)] == [True, True]
    assert not await host.commands.take("n", "another")


async def test_a_worker_killed_in_mid_change_comes_back_as_it_was(redis_url: str, tmp_path: Path) -> None:
    async with open_bunk(redis_url, tmp_path) as bunk:
        host = Host(bunk)
        first = asyncio.create_task(host.worker().run())
        chat = await bunk.submit("Tell me a very long story.", max_tokens=60)
        await bunk.entries(chat.chat, until_text=2)
        command_id = await host.order("kv_bits", bits=4, how="drain")
        await host.begun()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        worker = host.worker()
        second = asyncio.create_task(worker.run())
        command = await host.ended(command_id)
        assert command.state is CommandState.FAILED
        assert command.result == {"kv_bits": 8, "restarted": True}
        assert (await bunk.answer(chat.chat))[1].finish in (Finish.STOP, Finish.LENGTH)
        worker.stop()
        await second


async def test_a_model_that_nobody_uses_falls_asleep(redis_url: str, tmp_path: Path) -> None:
    async with open_bunk(redis_url, tmp_path) as bunk:
        host = Host(bunk, idle_after_s=0.5)
        worker = host.worker()
        task = asyncio.create_task(worker.run())
        _, end = await bunk.answer((await bunk.submit("Hello.", max_tokens=4)).chat)
        assert end.finish in (Finish.STOP, Finish.LENGTH)
        await host.until(EngineState.ASLEEP)
        worker.stop()
        await task


async def test_a_model_with_many_short_chats_stays_awake(redis_url: str, tmp_path: Path) -> None:
    async with open_bunk(redis_url, tmp_path) as bunk:
        host = Host(bunk, idle_after_s=3.0)
        worker = host.worker()
        task = asyncio.create_task(worker.run())
        for _ in range(8):
            await bunk.answer((await bunk.submit("Hello.", max_tokens=1)).chat)
            await asyncio.sleep(0.6)
            assert (await host.state())[0] is EngineState.READY
        worker.stop()
        await task


async def test_an_unloaded_model_stays_away_when_its_worker_is_killed_but_not_when_the_host_starts(
    redis_url: str, tmp_path: Path
) -> None:
    async with open_bunk(redis_url, tmp_path) as bunk:
        host = Host(bunk)
        first = asyncio.create_task(host.worker().run())
        await host.ended(await host.order("unload"))
        await host.until(EngineState.DOWN)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(host.worker().run())
        await asyncio.sleep(2)
        assert (await host.state())[0] is EngineState.DOWN
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await bunk.connection.redis.delete(keys.PROGRESS)  # as the host's start does
        worker = host.worker()
        third = asyncio.create_task(worker.run())
        await host.until(EngineState.READY)
        assert (await host.commands.desired("m")).power is Power.UP
        worker.stop()
        await third


async def test_an_engine_that_dies_while_it_drains_is_restarted_with_the_new_bits(host: Host) -> None:
    chat = await host.bunk.submit("Tell me a very long story.", max_tokens=60)
    await host.bunk.entries(chat.chat, until_text=2)
    command_id = await host.order("kv_bits", bits=4, how="drain")
    await host.begun()
    host.bunk.engine_process().kill()
    assert (await host.ended(command_id)).state is CommandState.DONE
    assert (await host.bunk.answer(chat.chat))[1].finish in (Finish.STOP, Finish.LENGTH)
