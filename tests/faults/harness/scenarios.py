"""What fails while chats are under way, one function each. `inject` starts when some chats have ended."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import httpx
import psutil

from tests.faults.harness.audit import Figures, audit
from tests.faults.harness.client import Observation
from tests.faults.harness.load import TOKENS, Load, jobs
from tests.faults.harness.scene import MODEL, FaultScene

Fault = Callable[[FaultScene, "Plan"], Awaitable[None]]
PARTS = {
    "gateway": ("gateway", ""),
    "scheduler": ("scheduler", ""),
    "worker": ("services.worker", MODEL),
    "engine": ("services.engines.llamacpp_server", ""),
    "jobs": ("services.jobs", ""),
    "redis": ("valkey", ""),
}


@dataclass(frozen=True)
class Plan:
    """How much. `times`: kills of one part; `spell_s`: how long a condition lasts; `rounds`: kills of every part.

    The engine bounds how long a scenario takes: an answer's tokens cost it more than all the rest of a chat.
    """

    count: int = 24
    per_s: float = 12.0
    seed: int = 1
    times: int = 1
    spell_s: float = 3.0
    rounds: int = 1
    pause_s: float = 2.0  # between kills
    tokens: tuple[int, ...] = TOKENS  # of an answer, one of these


# Chats come four times as fast as two cores answer them: most of the thousand are under way when the fault begins.
FULL = Plan(count=1000, per_s=40.0, times=3, spell_s=10.0, rounds=5, pause_s=4.0, tokens=(2, 4, 8, 12, 40))


@dataclass(frozen=True)
class Scenario:
    """`where`: the kind of host that it needs (tests.faults.harness.scene)."""

    inject: Fault
    where: Literal["up", "two gateways", "clock", "redis", "engine"]
    begin: float = 0.15  # the part of the chats that has ended by then
    tokens: tuple[int, ...] = ()  # instead of the plan's
    forgets: bool = False  # Redis does, so clients ask for forgotten chats anew


def killing(part: str) -> Fault:
    """kill -9 of one part."""

    async def inject(scene: FaultScene, plan: Plan) -> None:
        for number in range(plan.times):
            await asyncio.sleep(plan.pause_s if number else 0)
            await scene.kill(*PARTS[part])

    return inject


async def every_part_in_turn(scene: FaultScene, plan: Plan) -> None:
    """kill -9 of every part, in an order of the seed's."""
    dice = random.Random(plan.seed)
    for _ in range(plan.rounds):
        for part in dice.sample(sorted(PARTS), len(PARTS)):
            await scene.kill(*PARTS[part])
            await asyncio.sleep(dice.uniform(0.5, 1.5) * plan.pause_s)


async def engine_stands_still(scene: FaultScene, plan: Plan) -> None:
    """SIGSTOP: connections stay open and say nothing."""
    for _ in range(plan.times):
        (await scene.find(*PARTS["engine"])).send_signal(signal.SIGSTOP)
        await asyncio.sleep(plan.spell_s + 5.0)


async def host_restarts(scene: FaultScene, plan: Plan) -> None:
    """SIGTERM to the host with streams open, and a start on what it left."""
    assert scene.restart is not None
    for number in range(plan.times):
        await asyncio.sleep(plan.pause_s if number else 0)
        await scene.restart()


async def clock_jumps(scene: FaultScene, plan: Plan) -> None:
    """Ten minutes ahead, from there twenty back, and right again."""
    assert scene.clock is not None
    for off_s in (600, -600, 0):
        scene.clock.set(off_s)
        await asyncio.sleep(plan.spell_s)


async def torn_file(scene: FaultScene, plan: Plan) -> None:
    """Redis dies, and zero bytes stand behind its last write, as a power cut leaves them."""
    for number in range(plan.times):
        await asyncio.sleep(plan.pause_s if number else 0)
        redis = await scene.find(*PARTS["redis"])
        redis.suspend()
        (file,) = (scene.runtime.config.data_dir / "redis" / "appendonlydir").glob("*.incr.aof")
        with file.open("ab") as stream:
            stream.write(bytes(4096))
        redis.kill()
        await asyncio.to_thread(psutil.wait_procs, [redis], 5)


async def model_renamed(scene: FaultScene, plan: Plan) -> None:
    """The host stops with chats under way, and starts with its model under another name."""
    assert scene.restart is not None
    assert scene.config_path is not None
    text = scene.config_path.read_text()
    scene.config_path.write_text(
        text.replace(f"  {MODEL}:\n", "  renamed:\n").replace(f"model: {MODEL}", "model: renamed")
    )
    await scene.restart()


async def second_readers(scene: FaultScene, plan: Plan) -> None:
    """Each stream gets a second reader, at whichever gateway process takes it, which leaves in mid-stream."""
    assert scene.load is not None
    seen: set[str] = set()
    until_s = monotonic() + plan.spell_s
    while monotonic() < until_s:
        fresh = [observed for observed in scene.load.streams if observed.job.key not in seen]
        seen |= {observed.job.key for observed in fresh}
        await asyncio.gather(*(_read_a_little(scene, observed) for observed in fresh))
        await asyncio.sleep(0.1)
    assert seen, "no chat was in mid-stream"


async def _read_a_little(scene: FaultScene, observed: Observation) -> None:
    url = f"{scene.url}/v1/chats/{observed.chats[-1]}/stream"
    async with (
        httpx.AsyncClient(timeout=30.0) as http,
        http.stream(  # a connection of its own
            "GET", url, headers=scene.headers(observed.job.tenant)
        ) as answer,
    ):
        async for _ in answer.aiter_bytes():
            return


async def redis_data_lost(scene: FaultScene, plan: Plan) -> None:
    """Redis comes back empty, or somebody flushed it."""
    async with scene.redis_now() as connection:
        await connection.redis.flushall()


def redis_slow(delay_s: float) -> Fault:
    """Every answer of Redis comes late."""

    async def inject(scene: FaultScene, plan: Plan) -> None:
        assert scene.proxy is not None
        scene.proxy.delay_s = delay_s
        await asyncio.sleep(plan.spell_s)
        scene.proxy.delay_s = 0.0

    return inject


async def redis_stopped(scene: FaultScene, plan: Plan) -> None:
    """Redis takes commands and answers nothing for 5 s."""
    assert scene.redis is not None
    for _ in range(plan.times):
        os.kill(scene.redis.pid, signal.SIGSTOP)
        await asyncio.sleep(5.0)
        os.kill(scene.redis.pid, signal.SIGCONT)
        await asyncio.sleep(plan.pause_s)


async def redis_silent(scene: FaultScene, plan: Plan) -> None:
    """The way to Redis swallows everything, both ways, and then gives it back."""
    assert scene.proxy is not None
    scene.proxy.stop()
    await asyncio.sleep(plan.spell_s)
    scene.proxy.go_on()


async def redis_cut_off(scene: FaultScene, plan: Plan) -> None:
    """All connections end and no new ones are taken."""
    assert scene.proxy is not None
    for _ in range(plan.times):
        scene.proxy.cut()
        await asyncio.sleep(plan.spell_s)
        scene.proxy.mend()
        await asyncio.sleep(plan.pause_s)


async def redis_disk_full(scene: FaultScene, plan: Plan) -> None:
    """The append-only file cannot grow: Redis refuses writes until it can."""
    assert scene.redis is not None
    _, hard = resource.prlimit(scene.redis.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(scene.redis.pid, resource.RLIMIT_FSIZE, (1, hard))
    await asyncio.sleep(plan.spell_s)
    resource.prlimit(scene.redis.pid, resource.RLIMIT_FSIZE, (hard, hard))


async def redis_memory_full(scene: FaultScene, plan: Plan) -> None:
    """Redis has no room for another write."""
    async with scene.redis_now() as connection:
        await connection.redis.config_set("maxmemory", 1)
        await asyncio.sleep(plan.spell_s)
        await connection.redis.config_set("maxmemory", 0)


def engine_behaves(behaviour: str) -> Fault:
    """The engine's answers as its proxy changes them (tests.faults.harness.engine_worker)."""

    async def inject(scene: FaultScene, plan: Plan) -> None:
        assert scene.behaviour is not None
        scene.behaviour.write_text(behaviour)
        await asyncio.sleep(plan.spell_s)
        scene.behaviour.write_text("well")

    return inject


SCENARIOS: dict[str, Scenario] = {
    **{f"kill {part}": Scenario(killing(part), "up") for part in PARTS},
    "kill all in turn": Scenario(every_part_in_turn, "up", 0.05),
    "told to stop": Scenario(host_restarts, "up"),
    "engine stopped": Scenario(engine_stands_still, "up"),
    "torn file": Scenario(torn_file, "up"),
    # The last on its host, because PARTS knows the model's first name; long answers, so that the drain is too short.
    "model renamed": Scenario(model_renamed, "up", tokens=(400,)),
    "second reader": Scenario(second_readers, "two gateways", begin=0.0, tokens=(300,)),
    "clock jumps": Scenario(clock_jumps, "clock"),
    "redis 50 ms": Scenario(redis_slow(0.05), "redis"),
    "redis 500 ms": Scenario(redis_slow(0.5), "redis"),
    "redis stopped 5 s": Scenario(redis_stopped, "redis"),
    "redis silent": Scenario(redis_silent, "redis"),
    "redis cut off": Scenario(redis_cut_off, "redis"),
    "redis disk full": Scenario(redis_disk_full, "redis"),
    "redis memory full": Scenario(redis_memory_full, "redis"),
    "redis data lost": Scenario(redis_data_lost, "redis", forgets=True),
    "engine hangs": Scenario(engine_behaves("hang"), "engine"),
    "engine sends garbage": Scenario(engine_behaves("garbage"), "engine"),
    "engine busy": Scenario(engine_behaves("busy"), "engine"),
}


async def play(name: str, scene: FaultScene, plan: Plan) -> Figures:
    """One scenario from its first chat to its audit."""
    scenario = SCENARIOS[name]
    await scene.ready()
    began_s = monotonic()
    todo = jobs(plan.count, plan.per_s, f"{name} {plan.seed}", scenario.tokens or plan.tokens)
    scene.load = load = Load(scene.client(asks_anew=scenario.forgets), todo)
    try:
        await load.until(scenario.begin)
        await load.streaming()
        before = load.under_way
        await scenario.inject(scene, plan)
        after = load.under_way
        observed = await load.all()
    finally:
        await load.drop()
    await scene.ready()  # the last fault may have come after the last chat
    async with scene.redis_now() as connection:
        figures = await audit(name, observed, connection, monotonic() - began_s, forgets=scenario.forgets)
    figures.under_way = (before, after)
    return figures
