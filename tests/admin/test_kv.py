"""KV precision: dry runs that add up, changes at once and by a job, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.store.commands import Commands, CommandState
from services.store.jobs import Jobs, JobState
from services.store.registry_edit import read_registry
from tests.admin.conftest import Admin


async def test_a_dry_run_says_what_it_would_do(admin: Admin) -> None:
    await admin.engine("m", bits=16)
    answer = await admin.ask("PUT", "/models/m/kv", {"bits": 4, "dry_run": True})
    plan = answer["plan"]
    assert (answer["done"], answer["job"], plan["how"], plan["fits"]) == (False, None, "replace", True)
    assert plan["kv_bytes_now"] == 1536 * 23_040
    assert plan["kv_bytes_new"] == 1536 * plan["bytes_per_token_new"]
    assert plan["freed_bytes"] == plan["kv_bytes_now"] - plan["kv_bytes_new"]
    assert (plan["sessions_now"], plan["sessions_new"], plan["sessions_gained"]) == (3, 3, 0), "it has three slots"
    beyond = plan["freed_bytes"] // (512 * plan["bytes_per_token_new"])
    assert plan["chats_max_possible"] == 3 + beyond
    assert f"raise chats_max from 3 to {3 + beyond}" in plan["words"]
    # One step reads the weights once and the KV of three full chats, at 20 GB/s.
    assert plan["inter_token_ms_now"] == pytest.approx((100e6 + 3 * 512 * 23_040) / 20e9 * 1000)
    assert plan["quality_new"]["bits"] == 4
    assert plan["quality_new"]["source"] == "SmolLM2-135M on licence text", "m has the weights that were measured"
    assert await Jobs(admin.gateway.connection).recent(5) == []


async def test_what_needs_a_restart_is_a_job_and_the_second_change_gets_its_id(admin: Admin) -> None:
    await admin.engine("m")
    first = await admin.raw("PUT", "/models/m/kv", {"bits": 4})
    assert first.status_code == 202
    job = first.json()["job"]
    assert (job["kind"], job["target"], job["args"], job["by"]) == ("kv_bits", "m", {"bits": 4}, "owner")
    error = await admin.refused(409, "PUT", "/models/m/kv", {"bits": 16})
    assert (error["code"], error["job"]) == ("job_running", job["id"])
    assert (await admin.refused(409, "POST", "/models/m/sleep"))["job"] == job["id"]
    assert (await admin.ask("GET", "/models/m"))["job"] == job["id"]
    await admin.ask("POST", f"/jobs/{job['id']}/cancel")
    assert (await admin.ask("GET", f"/jobs/{job['id']}"))["state"] == "cancelled"
    assert (await admin.refused(409, "POST", f"/jobs/{job['id']}/cancel"))["code"] == "has_ended"
    again = await admin.ask("POST", f"/jobs/{job['id']}/retry")
    assert (again["retry_of"], again["args"]) == (job["id"], {"bits": 4})


async def test_a_change_that_leaves_fewer_sessions_than_slots_says_so(admin: Admin) -> None:
    await admin.engine("m", live=True, bits=8)
    plan = (await admin.ask("PUT", "/models/m/kv", {"bits": 16, "dry_run": True}))["plan"]
    assert (plan["sessions_now"], plan["sessions_new"], plan["sessions_gained"]) == (3, 1, -2)
    assert plan["chats_max_possible"] is None
    assert "chats_max" not in plan["words"]


async def test_the_same_bits_are_no_change(admin: Admin) -> None:
    await admin.engine("m")
    answer = await admin.ask("PUT", "/models/m/kv", {"bits": 8})
    assert (answer["done"], answer["plan"]["how"], answer["job"]) == (True, "none", None)


async def test_bits_that_a_model_cannot_do_and_bits_that_do_not_fit(admin: Admin) -> None:
    await admin.engine("m")
    assert (await admin.refused(400, "PUT", "/models/m/kv", {"bits": 5}))["param"] == "bits"
    assert (await admin.refused(404, "PUT", "/models/nope/kv", {"bits": 4}))["param"] == "model"
    config = admin.gateway.config
    memory = config.memory.model_copy(update={"card": 260_000_000, "reserve": 0.0})
    admin.gateway.config = config.model_copy(update={"memory": memory})
    await admin.engine("planes")
    error = await admin.refused(409, "PUT", "/models/m/kv", {"bits": 16})
    assert error["code"] == "does_not_fit"
    assert error["missing_bytes"] > 0
    assert error["would_fit"] == [8, 4]
    plan = (await admin.ask("PUT", "/models/m/kv", {"bits": 16, "dry_run": True}))["plan"]
    assert (plan["fits"], plan["would_fit"]) == (False, [8, 4])


async def test_bots_that_promise_more_are_named(admin: Admin) -> None:
    await admin.engine("planes")
    error = await admin.refused(409, "PUT", "/models/planes/kv", {"bits": 4})
    assert error["code"] == "below_floor"
    assert "acme/careful" in error["message"]
    assert "globex" not in error["message"]


async def test_a_live_engine_changes_at_once(admin: Admin) -> None:
    await admin.engine("m", live=True)
    commands = Commands(admin.gateway.connection)

    async def worker() -> None:
        while (command := await commands.read("m")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await commands.take("m", command.id)
        await commands.write("m", state=CommandState.DONE, result={"kv_bits": command.args["bits"]})

    answer, _ = await asyncio.gather(admin.raw("PUT", "/models/m/kv", {"bits": 4}), worker())
    assert answer.status_code == 200
    assert answer.json()["done"]
    assert answer.json()["plan"]["how"] == "live"
    assert (await admin.ask("GET", "/audit"))["items"][0]["action"] == "model.kv"


async def test_a_live_change_that_fails_says_so(admin: Admin) -> None:
    await admin.engine("m", live=True)
    commands = Commands(admin.gateway.connection)

    async def worker() -> None:
        while (command := await commands.read("m")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await commands.take("m", command.id)
        await commands.write("m", state=CommandState.FAILED, error="The probe said nothing.")

    answer, _ = await asyncio.gather(admin.raw("PUT", "/models/m/kv", {"bits": 4}), worker())
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "rolled_back")


async def test_a_bots_policy_changes_from_the_next_chat_on(admin: Admin) -> None:
    await admin.engine("m", live=True)
    dry = await admin.ask("PUT", "/bots/acme/support/kv", {"bits": 4, "dry_run": True})
    assert (dry["done"], dry["bits_typical"], dry["bytes_per_token_new"]) == (False, 4, 6_480)
    done = await admin.ask("PUT", "/bots/acme/support/kv", {"policy": {"policy": "medical", "floor": 8}})
    assert done["done"]
    registry = await read_registry(admin.gateway.connection)
    assert registry.tenants["acme"].config.bots["support"].kv.policy == "medical"
    assert (await admin.ask("GET", "/audit"))["items"][0]["before"]["policy"] == "auto"
    for body in ({}, {"bits": 4, "policy": {"policy": "auto"}}, {"policy": {"policy": "medical", "bits": 4}}):
        await admin.refused(400, "PUT", "/bots/acme/support/kv", body)


async def test_a_promise_that_the_model_cannot_keep_is_refused(admin: Admin) -> None:
    await admin.engine("m", bits=4)
    error = await admin.refused(409, "PUT", "/bots/acme/support/kv", {"bits": 8})
    assert (error["code"], error["would_fit"]) == ("kv_bits", [4])


async def proposed(admin: Admin, *proposals: dict[str, Any]) -> str:
    """An autotune job with these proposals."""
    jobs = Jobs(admin.gateway.connection)
    job = await jobs.create("autotune", "", {}, by="beat", now_s=0.0)
    attempt = await jobs.begin(job.id, 0.0)
    assert attempt is not None
    await attempt.end(JobState.SUCCEEDED, "done", 0.0, result={"proposals": proposals})
    return job.id


async def test_a_proposal_that_the_model_cannot_keep_any_more_is_left(admin: Admin) -> None:
    before = (await admin.ask("GET", "/bots/acme/support"))["config"]["kv"]
    after = before | {"policy": "fixed", "bits": 8}
    job = await proposed(
        admin, {"bot": "acme/support", "model": "m", "before": before, "after": after, "why": "measured"}
    )
    await admin.engine("m", bits=4)
    applied = await admin.ask("POST", f"/jobs/{job}/apply")
    assert (applied["changed"], applied["left"]) == ([], ["acme/support"])
    assert (await admin.ask("GET", "/bots/acme/support"))["config"]["kv"] == before
    await admin.engine("m", bits=8)
    assert (await admin.ask("POST", f"/jobs/{job}/apply"))["changed"] == ["acme/support"]


async def test_autotunes_proposals_are_carried_out_only_when_told(admin: Admin) -> None:
    before = (await admin.ask("GET", "/bots/acme/support"))["config"]["kv"]
    after = before | {"floor": 8}
    proposal = {"bot": "acme/support", "model": "m", "before": before, "after": after, "why": "measured"}
    stale = proposal | {"bot": "globex/returns", "before": before | {"floor": 16}}
    job = await proposed(admin, proposal, stale)
    assert (await admin.ask("GET", "/bots/acme/support"))["config"]["kv"] == before
    applied = await admin.ask("POST", f"/jobs/{job}/apply")
    assert (applied["changed"], applied["left"]) == (["acme/support"], ["globex/returns"])
    assert (await admin.ask("GET", "/bots/acme/support"))["config"]["kv"] == after
    entry = (await admin.ask("GET", "/audit"))["items"][0]
    assert (entry["action"], entry["target"], entry["after"]["floor"]) == ("bot.kv", "acme/support", 8)
