"""Many chats at mixed rates: one tenant's come evenly, the other's in bursts; long and short, streamed and whole."""

from __future__ import annotations

import asyncio
import random

import httpx

from tests.faults.harness.client import Client, Job, Observation

BOTS = {"acme": "acme/support", "globex": "globex/returns"}
BURST = 6
POLL_S = 0.05
WHOLE_SHARE = 0.2  # of chats that are not streamed
TOKENS = (4, 12, 12, 32, 64)


def jobs(count: int, per_s: float, seed: str, tokens: tuple[int, ...] = TOKENS) -> list[Job]:
    """`count` chats, a pure function of the seed."""
    dice = random.Random(seed)
    made, even_s, burst_s = [], 0.0, 0.0
    for number in range(count):
        tenant = "acme" if number % 2 else "globex"
        if tenant == "acme":
            even_s += dice.expovariate(per_s / 2)
        elif number % (2 * BURST) == 0:
            burst_s += dice.expovariate(per_s / 2 / BURST)
        made.append(
            Job(
                key=f"{number}-{dice.getrandbits(96):x}",
                tenant=tenant,
                bot=BOTS[tenant],
                text=f"Count from {dice.randint(1, 90)} on, separated by commas.",
                max_tokens=dice.choice(tokens),
                stream=dice.random() >= WHOLE_SHARE,
                start_s=even_s if tenant == "acme" else burst_s,
            )
        )
    return made


class Load:
    """Chats on their way. A scenario waits for `until` before it breaks something."""

    def __init__(self, client: Client, todo: list[Job]) -> None:
        self._todo = todo
        self._begun: list[Observation] = []
        self.ended: list[Observation] = []  # of those that have ended
        self._progress = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._one(client, job)) for job in todo]

    async def _one(self, client: Client, job: Job) -> None:
        await asyncio.sleep(job.start_s)
        observed = Observation(job)
        self._begun.append(observed)
        await client.have(observed)
        async with self._progress:
            self.ended.append(observed)
            self._progress.notify_all()

    @property
    def under_way(self) -> int:
        """Chats that were asked for and have not ended."""
        return len(self._begun) - len(self.ended)

    @property
    def streams(self) -> list[Observation]:
        """Chats in mid-stream."""
        return [
            observed
            for observed in self._begun
            if observed.places and observed.finish is None and observed not in self.ended
        ]

    async def streaming(self) -> None:
        """Return when some chat is in mid-stream, or all have ended."""
        while len(self.ended) < len(self._todo):
            if self.streams:
                return
            await asyncio.sleep(POLL_S)

    async def until(self, part: float) -> None:
        """Return when this part of the chats has ended."""
        goal = int(part * len(self._todo))
        async with self._progress:
            await self._progress.wait_for(lambda: len(self.ended) >= goal)

    async def all(self) -> list[Observation]:
        """What all clients saw, once all chats have ended."""
        await asyncio.gather(*self._tasks)
        return self.ended

    async def drop(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def http_client() -> httpx.AsyncClient:
    """Pings come every 10 s: a longer silence is a broken connection."""
    timeout = httpx.Timeout(30.0, connect=5.0, pool=None)
    return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=None), trust_env=False)
