"""Usage adds up to what was served, to the token, in JSON and in CSV."""

from __future__ import annotations

import csv
import io
import random
import time

from services.contracts.chats import ChatUsage, KvBits
from services.contracts.decisions import Decision, Outcome, Reason, Reservation
from services.contracts.replies import Finish, ReplyEnd
from services.store.charges import count_refusal
from services.store.scheduling import SchedulerStore
from services.store.usage_report import day_before, day_now, roll_up
from services.store.work import WorkConsumer
from tests.admin.conftest import Admin


async def serve(admin: Admin, count: int, seed: int) -> tuple[dict[str, int], float]:
    """Chats of two tenants, settled with drawn numbers, at four times of two days. Returns the sums."""
    drawn, connection = random.Random(seed), admin.gateway.connection
    desk, bench, now_s = SchedulerStore(connection), WorkConsumer(connection, "m", "m@test"), time.time()
    await bench.open()
    lease = await desk.take_lease("", "test", 60_000) or ""
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    sums = {"chats": 0, **dict.fromkeys(names, 0), "refused": 0}
    seconds = 0.0
    for number in range(count):
        ticket = await admin.submit(f"c{number}", tenant=drawn.choice(["acme", "globex"]), session=f"s{number}")
        at_s = now_s - drawn.choice([0, 1, 2, 3]) * 43_200
        if drawn.random() < 0.25:
            decision = Decision(ticket.chat, Outcome.REJECT, Reason.DEADLINE, KvBits.EIGHT)
            await desk.refuse(lease, ticket, decision, "no", at_s)
            sums["refused"] += 1
            continue
        held = Reservation(ticket.chat, ticket.tenant, ticket.session, "m", KvBits.EIGHT, 1, at_s, 30)
        await desk.dispatch(lease, ticket, held)
        [(entry, chat)] = await bench.take(1, 100)
        claim = await bench.claim(entry, chat)
        assert claim is not None
        used = ChatUsage(
            drawn.randint(1, 500),
            drawn.randint(0, 99),
            drawn.randint(0, 300),
            KvBits.EIGHT,
            0.125,
            0.25,
            reasoning_tokens=drawn.randint(0, 5),
        )
        end = ReplyEnd(Finish.STOP, used)
        await bench.settle(claim.ticket, claim.attempt, end, usage=used, keep_s=60, now_s=at_s)
        sums["chats"] += 1
        for name in names:
            sums[name] += getattr(used, name)
        seconds += used.queue_s
    return sums, seconds


async def test_sums_match_what_was_served(admin: Admin) -> None:
    sums, seconds = await serve(admin, 60, seed=6)
    today = day_now(time.time())
    span = {"from": day_before(today, 3), "to": today}
    report = await admin.ask("GET", "/usage", **span)
    total = report["total"]
    assert {name: total[name] for name in sums if name != "refused"} == {
        name: amount for name, amount in sums.items() if name != "refused"
    }
    assert total["refused"] == {"deadline": sums["refused"]}
    assert total["finishes"] == {"stop": sums["chats"]}
    assert total["queue_seconds"] == seconds
    assert total["kv_byte_seconds"] == sums["chats"] * 0.125
    for by in ("row", "day", "tenant", "bot"):
        rows = (await admin.ask("GET", "/usage", by=by, **span))["rows"]
        assert sum(row["completion_tokens"] for row in rows) == sums["completion_tokens"]
    parts = [(await admin.ask("GET", "/usage", tenant=name, **span))["total"]["chats"] for name in ("acme", "globex")]
    assert sum(parts) == sums["chats"]
    text = (await admin.raw("GET", "/usage", format="csv", **span)).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(int(row["prompt_tokens"]) for row in rows) == sums["prompt_tokens"]
    month = sum(tenant["use"]["tokens_this_month"] for tenant in (await admin.ask("GET", "/tenants"))["items"])
    if today[8:] > "03":
        assert month == sums["prompt_tokens"] + sums["completion_tokens"]


async def test_a_day_that_was_rolled_up_reads_the_same(admin: Admin) -> None:
    await serve(admin, 20, seed=7)
    connection, now_s = admin.gateway.connection, time.time()
    day = day_before(day_now(now_s), 1)
    before = await admin.ask("GET", "/usage", **{"from": day, "to": day})
    assert before["total"]["chats"] > 0
    await roll_up(connection, day, now_s)
    await roll_up(connection, day, now_s + 100 * 86400)  # its counters are given up now
    assert await connection.redis.keys(f"bh:usage:{day}:*") == []
    assert await admin.ask("GET", "/usage", **{"from": day, "to": day}) == before


async def test_refusals_before_a_ticket_count_by_reason(admin: Admin) -> None:
    for reason in ("rate_limit_exceeded", "rate_limit_exceeded", "insufficient_quota"):
        await count_refusal(admin.gateway.connection, "acme", "acme/support", reason, time.time())
    total = (await admin.ask("GET", "/usage"))["total"]
    assert total["refused"] == {"rate_limit_exceeded": 2, "insufficient_quota": 1}
    assert total["chats"] == 0
