"""Sessions: listed, inspected, demoted, ended; and why a chat waits."""

from __future__ import annotations

import asyncio
import time

from scheduler.loop import Loop
from scheduler.settings import SchedulerSettings
from services.contracts.chats import KvBits
from services.contracts.decisions import Reservation
from services.contracts.replies import Finish
from services.store import redis_keys as keys
from services.store.scheduling import SchedulerStore
from services.store.submission import SubmissionClient
from tests.admin.conftest import Admin


async def dispatched(admin: Admin, chat: str, model: str = "m") -> None:
    """As the scheduler does."""
    desk = SchedulerStore(admin.gateway.connection)
    ticket = await admin.submit(chat, model=model)
    lease = await desk.take_lease("", "test", 60_000)
    held = Reservation(
        chat, ticket.tenant, ticket.session, model, KvBits.EIGHT, 15_000, time.time(), 30, True, KvBits.FOUR
    )
    assert lease is not None
    await desk.dispatch(lease, ticket, held)
    await desk.give_lease(lease)


async def test_a_session_is_listed_with_its_chats(admin: Admin) -> None:
    await dispatched(admin, "c1")
    await admin.submit("c2")
    await admin.submit("c3", tenant="globex", session="web/7")
    listed = await admin.ask("GET", "/sessions")
    assert {(one["tenant"], one["session"]) for one in listed["items"]} == {("acme", "s1"), ("globex", "web/7")}
    assert (await admin.ask("GET", "/sessions", limit=1))["more"]
    shown = await admin.ask("GET", "/sessions/acme/s1")
    assert (shown["bot"], shown["model"], shown["kv_bits"], shown["reserved_bytes"]) == ("acme/support", "m", 8, 15_000)
    assert sorted((chat["chat"], chat["state"]) for chat in shown["chats"]) == [("c1", "ready"), ("c2", "waiting")]
    assert (await admin.ask("GET", "/sessions/globex/web/7"))["session"] == "web/7"
    await admin.refused(404, "GET", "/sessions/acme/nope")


async def test_ending_a_session_cancels_what_waits_and_runs(admin: Admin) -> None:
    await dispatched(admin, "c1")
    await admin.submit("c2")
    ended = await admin.ask("DELETE", "/sessions/acme/s1")
    assert sorted(ended["cancelled"]) == ["c1", "c2"]
    waiting = await admin.gateway.submissions.chat("c2")
    assert waiting is not None
    assert (waiting.state, waiting.finish) == ("done", Finish.CANCELLED)
    await admin.refused(404, "GET", "/sessions/acme/s1")


async def test_a_running_session_is_demoted_and_its_next_chats_start_low(admin: Admin) -> None:
    bench = await admin.engine("m", live=True)
    await dispatched(admin, "c1")
    dry = await admin.ask("PUT", "/sessions/acme/s1/kv", {"bits": 4, "dry_run": True})
    assert (dry["chats"], dry["freed_bytes"], dry["bits_now"], dry["done"]) == (
        ["c1"],
        15_000 - 15_000 * 6_480 // 12_240,
        8,
        False,
    )

    async def worker() -> None:
        async for command in bench.commands():
            if command.demote:
                await bench.demoted(command.demote, KvBits(command.bits))
                return

    working = asyncio.create_task(worker())
    channel = keys.control_channel("m")
    while await admin.gateway.connection.redis.pubsub_numsub(channel) != [(channel.encode(), 1)]:  # noqa: ASYNC110  (Redis knows when the worker listens)
        await asyncio.sleep(0.01)
    done = await admin.ask("PUT", "/sessions/acme/s1/kv", {"bits": 4})
    assert done["done"]
    await working
    await admin.submit("c2")
    [second] = await SchedulerStore(admin.gateway.connection).waiting()
    assert (second.chat, second.kv_bits, second.kv_bits_floor) == ("c2", KvBits.FOUR, KvBits.FOUR)


async def test_a_session_of_an_engine_with_one_precision_is_not_demoted(admin: Admin) -> None:
    await admin.engine("m")
    await dispatched(admin, "c1")
    assert (await admin.refused(409, "PUT", "/sessions/acme/s1/kv", {"bits": 4}))["code"] == "kv_bits"


async def test_the_scheduler_explains_why_a_chat_waits(admin: Admin) -> None:
    error = await admin.refused(503, "GET", "/scheduler/explain/c1")
    assert error["code"] == "no_scheduler"
    await admin.submit("c1")
    await admin.engine("m")
    loop = asyncio.create_task(
        Loop(SchedulerStore(admin.gateway.connection), SchedulerSettings, name="test", clock=time.time).run()
    )
    async with asyncio.timeout(20):
        while await SubmissionClient(admin.gateway.connection).snapshot() is None:  # noqa: ASYNC110  (asked before, it would not hear)
            await asyncio.sleep(0.02)
    assert (await admin.ask("GET", "/scheduler/explain/nobody"))["state"] == "unknown"
    found = await admin.ask("GET", "/scheduler/explain/c1")
    assert found["state"] == "running"
    other = await admin.submit("c2", model="planes")
    answer = await admin.http.get(
        f"/admin/scheduler/explain/{other.chat}", headers={"authorization": "Bearer " + admin.gateway.secrets.admin_key}
    )
    waiting = answer.json()
    assert (waiting["state"], waiting["reason"]) == ("waiting", "model_down")
    assert "not up" in waiting["why"]
    assert waiting["position"] == 1
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
