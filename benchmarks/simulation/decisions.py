"""How fast the scheduler decides: 8 models, 500 tickets waiting, chats that end as fast as they are let in.

Counted are final decisions; the time is the process's own, of `arrive`, `step`, `settle` and reports together.
"""

from __future__ import annotations

import json
from random import Random
from time import process_time

from scheduler.core import Scheduler
from scheduler.settings import ModelTargets, SchedulerSettings
from services.contracts.chats import ChatUsage, KvBits, Task, Ticket
from services.contracts.decisions import Outcome
from services.contracts.devices import Sharing, gpu
from services.contracts.engines import EngineFacts, EngineReport, EngineState
from services.devices.machine import machine

MODELS, TENANTS, WAITING = 8, 40, 500


def _tickets(count: int, rng: Random) -> list[Ticket]:
    return [
        Ticket(
            chat=f"c{number}",
            request=f"c{number}",
            tenant=(tenant := f"t{rng.randrange(TENANTS)}"),
            bot=f"{tenant}/bot",
            model=f"m{rng.randrange(MODELS)}",
            session=f"s{number}",
            prompt_tokens=rng.randrange(100, 4000),
            max_tokens=rng.randrange(50, 800),
            kv_bits=KvBits.EIGHT,
            kv_bits_floor=KvBits.FOUR if demotable else KvBits.EIGHT,
            task=Task.SUPPORT,
            created_s=0.0,
            deadline_s=1e6,
            demotable=demotable,
        )
        for number in range(count)
        for demotable in (rng.random() < 0.5,)
    ]


def decisions_per_s(decisions: int = 40_000, seed: int = 1, sharing: Sharing = Sharing.TURNS) -> float:
    """Final decisions a second of processor time."""
    rng = Random(seed)
    tickets = iter(_tickets(decisions + 2 * WAITING, rng))
    scheduler = Scheduler(
        SchedulerSettings(
            # Weighed at each decision, and met in both modes: memory is what chats wait for.
            targets={f"m{number}": ModelTargets(inter_token_ms_max=100.0) for number in range(MODELS)},
            bandwidth_bytes_per_s={gpu(0): 2.1e12},
        )
    )
    for number in range(MODELS):
        facts = EngineFacts(
            f"m{number}",
            "sglang",
            4 << 30,
            1 << 30,
            3 << 30,
            {4: 16_384, 8: 32_768},
            8192,
            64,
            KvBits.EIGHT,
            True,
            gpu(0),
            sharing,
        )
        scheduler.engine_started(facts, 0.0)
    places = iter([rng.random() for _ in range(4 * decisions)])
    usage = ChatUsage(1000, 0, 200, KvBits.EIGHT, ran_s=0.5)
    now_s, reported_s, decided = 0.0, 0.0, 0
    running: list[str] = []
    begun = process_time()
    while decided < decisions:
        now_s += 0.002
        if now_s - reported_s >= 1.0:
            reported_s = now_s
            for number in range(MODELS):
                scheduler.engine_reported(EngineReport(f"m{number}", now_s, EngineState.READY))
        while len(scheduler.wait_queue.queues) < WAITING:
            scheduler.arrive(next(tickets), now_s)
        for decision in scheduler.step(now_s):
            decided += 1
            if decision.outcome in (Outcome.ADMIT, Outcome.ADMIT_DEMOTED):
                running.append(decision.chat)
        for _ in range(2):
            if running:
                place = int(next(places) * len(running))
                running[place], running[-1] = running[-1], running[place]
                scheduler.settle(running.pop(), usage, now_s)
    took_s = process_time() - begun
    scheduler.check_integrity()
    return decided / took_s


if __name__ == "__main__":
    best = max(decisions_per_s(8000) for _ in range(7))
    print(json.dumps({"decisions_per_s": round(best), "machine": machine()}))
