"""The scheduler over time: who goes past whom, what ends a wait, what is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.core import Scheduler
from scheduler.refusal_texts import refusal
from scheduler.settings import ModelTargets, SchedulerSettings, TenantShare
from services.contracts.chats import KvBits, TokenPrice
from services.contracts.decisions import Outcome, Reason, Reservation
from services.contracts.devices import CPU
from services.contracts.engines import EngineReport, EngineState, Learned

from .kit import NOW_S, Host, facts, ticket, usage


def test_three_of_ten_run_and_all_are_answered_as_room_comes_free() -> None:
    host = Host(facts())
    running = host.send(*(ticket(f"c{number}", tokens=300) for number in range(10)))
    assert running == ["c0", "c1", "c2"]
    answered = 0
    while running:
        answered += 1
        running += host.end(running.pop(0))
    assert answered == 10
    assert host.scheduler.snapshot(host.now_s).models["m"].reserved_bytes == 0


def test_a_blocked_chat_holds_up_neither_other_tenants_nor_other_models() -> None:
    host = Host(facts("m"), facts("n"))
    host.send(ticket("half", "z", tokens=500))
    assert host.send(ticket("big", "a", tokens=800)) == []
    assert host.send(ticket("small", "b", tokens=100)) == ["small"]
    assert host.send(ticket("elsewhere", "a", "n", tokens=800)) == ["elsewhere"]


def test_a_big_chat_is_overtaken_only_so_often() -> None:
    host = Host(facts(), overtakes_max=4)
    host.send(ticket("first", "z", tokens=500), ticket("second", "z", tokens=400))
    host.send(ticket("big", "a", tokens=900))
    passed = 0
    running = ["first", "second"]
    for number in range(30):
        running += host.send(ticket(f"small-{number}", f"t{number}", tokens=100))
        running += host.end(running.pop(0)) if running else []
        if "big" in host.decided:
            break
        passed = sum(chat.startswith("small") for chat in host.decided)
    assert host.answer("big") == (Outcome.ADMIT, Reason.ROOM)
    assert passed <= 4 + 1


def test_models_take_turns_at_prompts_by_their_tenants_service() -> None:
    """Reading prompts is one device's work: whose model comes first in the file has no more of it."""
    names = ("m1", "m2", "m3")
    host = Host(*(facts(name, kv_budget_bytes=100_000) for name in names), prefill_ahead_s_max=0.25)
    host.wait(prefill_tokens_per_s=100.0)
    flood = [ticket(f"{name} {n}", f"tenant-{name}", name, tokens=100) for n in range(40) for name in names]
    served = host.send(*flood)  # prompts of 50 tokens, half a second each
    while len(served) < 60:
        served += host.wait(0.1, prefill_tokens_per_s=100.0)
    assert [sum(chat.startswith(name) for chat in served) for name in names] == [20, 20, 20]


def test_a_small_tenant_does_not_open_its_model_to_another_ones_flood() -> None:
    host = Host(*(facts(name, kv_budget_bytes=10_000_000, chats_max=1000) for name in "mn"), prefill_ahead_s_max=0.25)
    host.wait(prefill_tokens_per_s=100.0)
    host.send(*(ticket(f"{name} {n}", f"flood-{name}", name, tokens=40) for n in range(150) for name in "mn"))
    for number in range(200):
        host.now_s += 0.1
        for name in "mn":
            host.report(name, prefill_tokens_per_s=100.0)
        host.send(ticket(f"small {number}", "small", "m", tokens=2))
    served = [sum(chat.startswith(name) for chat in host.decided) for name in "mn"]
    assert served[0] == pytest.approx(served[1], abs=2)


def test_a_tenant_over_its_share_that_waits_does_not_open_its_model_to_a_flood() -> None:
    host = Host(
        *(facts(name, kv_budget_bytes=10_000_000, chats_max=1000) for name in "mn"),
        prefill_ahead_s_max=0.25,
        latency_headroom=0.1,
    )
    host.wait(prefill_tokens_per_s=100.0)
    host.send(ticket("long", "large", "m", tokens=800, prompt_tokens=1), ticket("f", "flood-m", "m", tokens=2))
    host.send(*(ticket(f"{name} {n}", f"flood-{name}", name, tokens=40) for n in range(150) for name in "mn"))
    host.send(*(ticket(f"large {n}", "large", "m", tokens=40) for n in range(100)))
    for _ in range(200):
        let_in = host.wait(0.1, prefill_tokens_per_s=100.0)
        host.end(*(chat for chat in let_in if chat != "long"), used=usage(20, 20))
    served = [sum(chat.startswith(f"{name} ") for chat in host.decided) for name in "mn"]
    assert served[1] > 0.5 * served[0]


def test_a_chat_that_waits_for_bandwidth_is_not_starved_by_other_models() -> None:
    """`slow` fits only where little else is read; small chats of another model keep coming."""
    targets = {"n": ModelTargets(inter_token_ms_max=26.0)}
    host = Host(facts("m"), facts("n"), targets=targets, bandwidth_bytes_per_s={CPU: 100_000.0}, overtakes_max=3)
    running = host.send(*(ticket(f"old-{number}", "b", tokens=100) for number in range(4)))
    host.send(ticket("slow", "a", "n", tokens=600))
    for number in range(20):
        running += host.send(ticket(f"new-{number}", "b", tokens=100))
        running += host.end(running.pop(0)) if running else []
        if "slow" in host.decided:
            break
    assert host.answer("slow") == (Outcome.ADMIT, Reason.ROOM)


def test_a_chat_that_waits_for_bandwidth_holds_up_no_other_device() -> None:
    targets = {"n": ModelTargets(inter_token_ms_max=26.0)}
    bandwidth = {"gpu0": 100_000.0, "gpu1": 100_000.0}
    engines = (facts("n", device="gpu0"), facts("o", device="gpu0"), facts("m", device="gpu1"))
    host = Host(*engines, targets=targets, bandwidth_bytes_per_s=bandwidth, overtakes_max=3)
    host.send(*(ticket(f"old {number}", "b", "o", tokens=200) for number in range(4)))
    host.send(ticket("slow", "a", "n", tokens=700))
    for number in range(20):
        assert host.send(ticket(f"new {number}", "c", tokens=40)) == [f"new {number}"]
    assert host.why("slow")["reason"] == Reason.BANDWIDTH
    assert "in turns" in host.why("slow")["why"]
    assert host.why("slow")["overtaken"] == 0


def test_prompts_of_one_device_make_no_other_wait() -> None:
    host = Host(facts("m", device="gpu0"), facts("n", device="gpu1"))
    for model in "mn":
        host.report(model, prefill_tokens_per_s=100.0, prefill_tokens=1000, prefill_prompts=1)
    host.now_s += 0.1
    assert host.send(ticket("long", tokens=800)) == ["long"]
    assert host.send(ticket("same", "b"), ticket("other", "b", "n")) == ["other"]
    assert host.why("same")["reason"] == Reason.FIRST_TOKEN


def test_an_engine_that_comes_back_on_another_device_takes_its_chats_along() -> None:
    bandwidth = {"gpu0": 100_000.0, "gpu1": 100_000.0}
    host = Host(facts("m", device="gpu0"), facts("n", device="gpu0"), bandwidth_bytes_per_s=bandwidth)
    host.send(ticket("stays", "a", "n"), ticket("moves", "a", "m"))
    host.scheduler.engine_started(facts("m", device="gpu1"), host.now_s)
    host.scheduler.check_integrity()
    seen = host.scheduler.snapshot(host.now_s).models
    assert [seen[model].predicted_inter_token_s for model in "mn"] == [0.011, 0.011]
    host.end("moves", "stays")


@pytest.mark.parametrize("beside", [False, True])
def test_nor_where_its_model_gives_its_turn_up_before_it(beside: bool) -> None:
    host = Host(
        *(facts(name, kv_budget_bytes=3000, context_tokens=3000) for name in "mn"),
        targets={"n": ModelTargets(inter_token_ms_max=47.0)},
        bandwidth_bytes_per_s={CPU: 1e5},
        overtakes_max=3,
    )
    late: dict[str, Any] = {"deadline_s": NOW_S + 1e6}
    host.send(ticket("before", "z", "n", tokens=2000, **late))
    host.send(ticket("costly", "a", "m", **late))
    running = host.send(*(ticket(f"m {number}", "b", **late) for number in range(3)))
    host.send(ticket("slow", "a", "n", tokens=600, **late))
    if beside:
        host.send(ticket("big", "f", "n", tokens=1500, **late))  # waits for memory, and has had less
    running += host.send(ticket("m 3", "b", **late))
    host.end("costly", used=usage(10**7, 10**7))
    for number in range(30):
        host.scheduler.arrive(ticket(f"new {number}", "b", **late), host.now_s)
        if running:
            host.scheduler.settle(running.pop(0), usage(), host.now_s)
        running += [chat for chat in host.wait(0.05) if chat != "slow"]
    assert "slow" in host.decided


def test_turns_of_admitted_sessions_go_before_new_sessions() -> None:
    host = Host(facts())
    host.send(ticket("turn-1", session="s", tokens=900))
    host.send(ticket("new-1", tokens=900), ticket("new-2", tokens=900))
    host.end("turn-1")
    host.send(ticket("turn-2", session="s", tokens=900))
    assert host.end("new-1") == ["turn-2"]


def test_new_sessions_of_a_bot_are_charged_without_the_system_prompt_that_they_share() -> None:
    host = Host(facts(kv_budget_bytes=100_000, context_tokens=10_000), prefill_ahead_s_max=0.25)
    host.wait(prefill_tokens_per_s=1000.0)
    many = [ticket(f"{number}", tokens=1000, bot="a/bot") for number in range(12)]  # prompts of 500 tokens, 0.5 s
    assert host.send(*many[:2]) == ["0"], "the second waits while the first is read"
    host.scheduler.cancel("1", host.now_s)
    host.wait(1.0)
    for chat in ("1", "2", "3"):
        host.scheduler.arrive(many[int(chat)], host.now_s)
        assert host.wait(1.0) == [chat]
    host.wait(1.0)
    host.end("0", "1", "2", "3", used=usage(500, 50, cached=480))
    assert host.send(*many[4:]) == [one.chat for one in many[4:]], "0.02 s each"
    host.wait(1.0)
    assert host.send(*(ticket(f"other {n}", tokens=1000, bot="a/other") for n in range(2))) == ["other 0"]


def test_turns_of_conversations_without_a_name_do_not_pass_for_system_prompts() -> None:
    host = Host(facts(kv_budget_bytes=100_000, context_tokens=10_000), prefill_ahead_s_max=0.25)
    host.wait(prefill_tokens_per_s=1000.0)
    late: dict[str, Any] = {"tokens": 1000, "deadline_s": NOW_S + 1000.0}
    for number in range(6):
        turn = ticket(f"turn {number}", session=f"unnamed {number}", opening=not number, **late)
        assert host.send(turn) == [f"turn {number}"]
        host.wait(1.0)
        host.end(f"turn {number}", used=usage(500, 50, cached=490 if number else 0))
    assert host.send(ticket("new", **late), ticket("newer", **late)) == ["new"], "0.5 s each"


@pytest.mark.parametrize("again", ["with other flags", "with the same"])
def test_an_engine_that_starts_again_has_nothing_cached(again: str) -> None:
    engine = facts(kv_budget_bytes=100_000, context_tokens=10_000)
    host = Host(engine, prefill_ahead_s_max=0.25)
    host.wait(prefill_tokens_per_s=1000.0)
    for number in range(4):
        assert host.send(ticket(f"{number}", tokens=1000)) == [f"{number}"]
        host.wait(1.0)
        host.end(f"{number}", used=usage(500, 50, cached=480))
    assert host.send(ticket("a", tokens=1000), ticket("b", tokens=1000)) == ["a", "b"], "0.02 s each"
    if again == "with other flags":
        host.scheduler.engine_started(replace(engine, chats_max=9), host.now_s)
    host.wait(1.0, prefill_tokens_per_s=1000.0, up_since_s=host.now_s if again == "with the same" else 0.0)
    assert host.send(ticket("c", tokens=1000), ticket("d", tokens=1000)) == ["c"], "0.5 s each"


def test_what_bots_share_is_known_to_whoever_takes_over() -> None:
    engine = facts(kv_budget_bytes=100_000, context_tokens=10_000)
    before, after = (Host(engine, prefill_ahead_s_max=0.25) for _ in range(2))
    before.wait(prefill_tokens_per_s=1000.0)
    for number in range(4):
        assert before.send(ticket(f"{number}", tokens=1000)) == [f"{number}"]
        before.wait(1.0)
        before.end(f"{number}", used=usage(500, 50, cached=480))
    learned = before.scheduler.learned()
    assert not Host(engine).scheduler.learned(), "nothing, rather than that nothing is known"
    late = Host(prefill_ahead_s_max=0.25)
    late.scheduler.recall(learned)
    late.scheduler.engine_started(engine, late.now_s)
    assert late.scheduler.snapshot(late.now_s).models["m"].prefill_tokens_per_s == 1000.0
    after.wait()
    after.scheduler.recall(learned)
    assert after.send(*(ticket(f"n{n}", tokens=1000) for n in range(8))) == [f"n{n}" for n in range(8)], "0.02 s each"


@pytest.mark.parametrize(("up_since_s", "admitted"), [(NOW_S, ["c", "d"]), (NOW_S - 60, ["c"])])
def test_whoever_takes_over_expects_nothing_of_an_engine_started_meanwhile(
    up_since_s: float, admitted: list[str]
) -> None:
    host = Host(facts(kv_budget_bytes=100_000, context_tokens=10_000), prefill_ahead_s_max=0.25)
    host.wait(prefill_tokens_per_s=1000.0, up_since_s=NOW_S)
    learned = Learned("m", 1.0, 1000.0, shared_tokens={"a/bot": [480] * 8}, up_since_s=up_since_s)
    host.scheduler.recall([learned])
    assert host.send(ticket("c", tokens=1000), ticket("d", tokens=1000)) == admitted, "0.02 or 0.5 s each"


def test_a_lease_ends_when_its_session_is_idle_too_long() -> None:
    host = Host(facts(), session_idle_s=60.0)
    host.send(ticket("turn-1", session="s", tokens=900))
    host.end("turn-1")
    host.wait(61.0)
    host.send(ticket("busy", tokens=900), ticket("new", tokens=900))
    host.send(ticket("turn-2", session="s", tokens=900))
    assert host.end("busy") == ["new"]


def test_higher_priority_goes_first_within_a_tenant() -> None:
    host = Host(facts())
    host.send(ticket("running", tokens=900))
    host.send(ticket("low", tokens=900), ticket("high", tokens=900, priority=1))
    assert host.end("running") == ["high"]


def test_a_ticket_told_twice_is_one_ticket() -> None:
    host = Host(facts())
    host.send(ticket("c", tokens=100))
    assert host.send(ticket("c", tokens=100)) == []
    assert host.scheduler.snapshot(host.now_s).models["m"].reserved_bytes == 100


def test_a_chat_settled_twice_is_settled_once() -> None:
    host = Host(facts())
    host.send(ticket("c"), ticket("d"))
    host.end("c")
    host.end("c")
    assert host.scheduler.snapshot(host.now_s).models["m"].reserved_bytes == 100


def test_a_withdrawn_ticket_leaves_queue_and_ledger_without_charge() -> None:
    host = Host(facts())
    host.send(ticket("running", "a", tokens=900), ticket("waiting", "a", tokens=900))
    host.scheduler.cancel("waiting", host.now_s)
    assert host.scheduler.waiting("waiting") is None
    host.scheduler.undo(host.decided["running"], host.now_s)
    host.step()
    snapshot = host.scheduler.snapshot(host.now_s)
    assert (snapshot.waiting, snapshot.models["m"].reserved_bytes, snapshot.counters["a"]) == (0, 0, 0.0)


def test_a_deadline_that_passes_is_an_answer() -> None:
    host = Host(facts())
    host.send(ticket("running", tokens=900), ticket("c", tokens=900, deadline_s=NOW_S + 5))
    host.wait(4.9)
    assert "c" not in host.decided
    host.wait(0.2)
    assert host.answer("c") == (Outcome.REJECT, Reason.DEADLINE)
    assert host.decided["c"].retry_after_s is not None


def test_a_new_session_that_cannot_make_its_deadline_is_told_so_at_once() -> None:
    host = Host(facts())
    host.send(ticket("first", tokens=900))
    host.now_s += 10
    host.report("m")
    host.end("first")  # chats take ten seconds, one at a time
    host.send(ticket("running", tokens=900), ticket("next", tokens=900, deadline_s=host.now_s + 15))
    host.send(ticket("hopeless", tokens=900, deadline_s=host.now_s + 15))
    assert "next" not in host.decided
    assert host.answer("hopeless") == (Outcome.REJECT, Reason.DEADLINE)
    assert host.decided["hopeless"].retry_after_s == pytest.approx(20.0)


def test_an_engine_that_is_full_for_a_moment_does_not_look_slow() -> None:
    """Its report is late, so nothing is let in while its chats end; those that come may still wait a minute."""
    host = Host(facts(), telemetry_age_s_max=3.0)
    running = host.send(*(ticket(f"old-{number}") for number in range(10)))
    host.now_s += 10
    for chat in running[:-1]:
        host.scheduler.settle(chat, usage(ran_s=10.0), host.now_s)
    host.step()
    host.send(*(ticket(f"new-{number}", deadline_s=host.now_s + 60) for number in range(10)))
    assert not [chat for chat in host.decided if chat.startswith("new")]


@pytest.mark.parametrize("jump_s", [600.0, -600.0])
def test_a_clock_that_jumps_while_chats_run_makes_no_model_look_slow(jump_s: float) -> None:
    """Chats take two seconds, ten of them at once."""
    host = Host(facts())
    running = host.send(*(ticket(f"old-{number}") for number in range(10)))
    host.now_s += 2.0 + jump_s
    host.end(*running[:8], used=usage(ran_s=2.0))
    host.send(*(ticket(f"new-{number}", deadline_s=host.now_s + 60) for number in range(20)))
    assert not [chat for chat in host.decided if host.answer(chat)[0] is Outcome.REJECT]
    assert 0.0 < host.why("new-19")["expected_wait_s"] < 6.0


def test_queues_are_bounded_and_say_when_to_come_back() -> None:
    host = Host(facts(), waiting_per_tenant_max=2)
    host.send(ticket("running", tokens=900))
    host.send(*(ticket(f"c{number}", tokens=900) for number in range(3)))
    assert host.answer("c2") == (Outcome.REJECT, Reason.QUEUE_FULL)
    assert (host.decided["c2"].retry_after_s or 0) >= 1.0


def test_a_turn_displaces_a_new_session_from_a_full_queue() -> None:
    host = Host(facts(), waiting_per_tenant_max=2)
    host.send(ticket("turn-1", session="s", tokens=900), ticket("new-1", tokens=900), ticket("new-2", tokens=900))
    host.send(ticket("turn-2", session="s", tokens=900))
    assert host.answer("new-2") == (Outcome.REJECT, Reason.QUEUE_FULL)
    assert host.end("turn-1") == ["turn-2"]


def test_a_flood_that_fills_the_room_does_not_keep_others_out() -> None:
    host = Host(facts(), waiting_max=5)
    host.send(ticket("running", "flood", tokens=900))
    host.send(*(ticket(f"f{number}", "flood", tokens=900) for number in range(5)))
    host.send(ticket("quiet", "quiet", tokens=900))
    assert host.answer("f4") == (Outcome.REJECT, Reason.QUEUE_FULL)
    assert host.end("running") == ["quiet"]


def test_a_bot_that_may_overflow_does_so_when_room_is_short_for_long() -> None:
    host = Host(facts(), overflow_after_s=10.0)
    host.send(ticket("running", tokens=900), ticket("c", tokens=900, overflow=True))
    host.wait(9.9)
    assert "c" not in host.decided
    host.wait(0.2)
    assert host.answer("c") == (Outcome.OVERFLOW, Reason.KV_MEMORY)


def test_a_chat_overflows_only_once_its_tenant_has_the_money() -> None:
    host = Host(facts(), overflow_after_s=10.0, overflow_prices={"other": TokenPrice(2.0, 2.0)})
    host.scheduler.may_spend({"a": 1999, "c": 0})
    host.send(ticket("running", tokens=900))
    for chat, tenant in (("a", "a"), ("b", "b"), ("c", "c"), ("a-again", "a")):
        host.send(ticket(chat, tenant, tokens=900, overflow=True, overflow_to="other"))
    host.wait(10.1)
    assert [host.answer(chat)[0] for chat in ("a", "b")] == [Outcome.OVERFLOW] * 2
    assert not {"a-again", "c"} & host.decided.keys(), "1800 micro-dollars a chat"
    host.scheduler.may_spend({"a": 1999})
    host.wait(1.1)
    assert [host.answer(chat)[0] for chat in ("a-again", "c")] == [Outcome.OVERFLOW] * 2


def test_a_tenant_at_its_own_limit_does_not_overflow_and_holds_nobody_up() -> None:
    host = Host(facts(), shares={"a": TenantShare(chats_max=1)}, overflow_after_s=10.0)
    host.send(ticket("a1", "a"), ticket("a2", "a", overflow=True))
    assert host.send(ticket("b1", "b")) == ["b1"]
    host.wait(11.0)
    assert "a2" not in host.decided
    assert host.why("a2")["reason"] == "tenant_limit"
    assert host.end("a1") == ["a2"]


def test_a_tenant_holds_no_more_kv_than_its_limit() -> None:
    host = Host(facts("m"), facts("n"), shares={"a": TenantShare(kv_bytes_max=250)})
    assert host.send(ticket("c1", "a"), ticket("c2", "a", "n"), ticket("c3", "a", "n")) == ["c1", "c2"]
    assert host.end("c1") == ["c3"]


def test_a_chat_above_its_tenants_limit_is_refused_at_once_and_holds_nobody_up() -> None:
    shares = {"a": TenantShare(kv_bytes_max=250)}
    host = Host(facts(), shares=shares)
    huge = ticket("huge", "a", tokens=300, overflow=True)
    assert host.send(huge, ticket("small", "a", tokens=100)) == ["small"]
    assert host.answer("huge") == (Outcome.REJECT, Reason.NEVER_FITS), "a limit is no reason to go elsewhere"
    assert host.decided["huge"].numbers == {"need_bytes": 300, "kv_bytes_max": 250}
    assert refusal(host.decided["huge"]) == (
        "This chat needs 300 B of KV memory, and its tenant's limit is 250 B. Shorten the prompt or lower max_tokens."
    )


def test_a_limit_lowered_live_refuses_what_waits_for_more() -> None:
    host = Host(facts(), shares={"a": TenantShare(kv_bytes_max=900)})
    host.send(ticket("b", "b", tokens=900))
    host.send(ticket("huge", "a", tokens=300), ticket("small", "a", tokens=150))
    host.scheduler.configure(replace(host.scheduler.settings, shares={"a": TenantShare(kv_bytes_max=250)}))
    host.end("b")
    assert host.answer("huge") == (Outcome.REJECT, Reason.NEVER_FITS)
    assert host.answer("small")[0] is Outcome.ADMIT


def test_a_chat_takes_the_precision_that_its_tenants_limit_leaves() -> None:
    host = Host(facts(), shares={"a": TenantShare(kv_bytes_max=250)})
    wide: dict[str, Any] = {"kv_bits": KvBits.SIXTEEN, "kv_bits_floor": KvBits.FOUR, "demotable": True}
    assert host.send(ticket("c1", "a", tokens=100, **wide), ticket("c2", "a", tokens=50, **wide)) == ["c1", "c2"]
    assert [host.decided[chat].reserve_bytes for chat in ("c1", "c2")] == [200, 50]


def test_limits_changed_live_let_the_parked_go() -> None:
    host = Host(facts(), shares={"a": TenantShare(chats_max=1)})
    host.send(ticket("c1", "a"), ticket("c2", "a"))
    host.scheduler.configure(replace(host.scheduler.settings, shares={}))
    assert host.step() == ["c2"]


def test_an_engine_gone_quiet_takes_nobody_until_it_is_heard_again() -> None:
    host = Host(facts(), telemetry_age_s_max=5.0)
    host.now_s += 6.0
    assert host.send(ticket("c")) == []
    assert host.why("c")["reason"] == "telemetry_stale"
    assert host.wait(0.1) == ["c"]


def test_a_sleeping_model_is_wanted_by_what_waits_for_it() -> None:
    host = Host(facts("m"), facts("n"))
    host.wait(0.1)
    host.scheduler.engine_reported(EngineReport("n", host.now_s + 0.1, EngineState.ASLEEP))
    host.now_s += 0.1
    assert host.scheduler.wanted_models() == []
    assert host.send(ticket("c", model="n")) == []
    assert host.scheduler.wanted_models() == ["n"]
    assert host.scheduler.snapshot(host.now_s).models["n"].budget_bytes == 0
    assert host.wait(1.0) == ["c"], "awake again"


def test_a_model_nobody_has_heard_of_may_still_come_up() -> None:
    host = Host(facts("m"))
    host.send(ticket("c", model="later"))
    host.scheduler.engine_started(facts("later"), host.now_s)
    assert host.step() == ["c"]


def test_whoever_takes_over_counts_what_runs() -> None:
    host = Host(facts())
    running = Reservation("old", "a", "s", "m", KvBits.FOUR, 700, NOW_S, 700)
    host.scheduler.restore([running], host.now_s)
    assert host.send(ticket("new", "b", tokens=400), ticket("turn", "a", session="s", tokens=500)) == []
    assert host.scheduler.reservations() == [running]
    assert host.end("old") == ["new", "turn"]


def _refused_of_a_crowd(host: Host) -> int:
    """150 chats ask for an engine that takes half a second for each and serves 8 at once."""
    host.send(*(ticket(f"crowd {number}", tokens=10, deadline_s=host.now_s + 30.0) for number in range(150)))
    return sum(decision.outcome is Outcome.REJECT for decision in host.decided.values())


def test_chats_that_stalled_while_redis_was_full_say_nothing_of_the_engine() -> None:
    """Whoever takes over after it has only them to learn from."""
    host = Host(facts(chats_max=8))
    host.scheduler.restore(
        [Reservation(f"old {number}", "a", "s", "m", KvBits.FOUR, 10, NOW_S, 10) for number in range(8)], host.now_s
    )
    host.now_s += 12.0
    host.report("m")
    host.end(*(f"old {number}" for number in range(8)), used=usage(5, 5, ran_s=12.0))
    assert _refused_of_a_crowd(host) == 0


def test_one_stall_among_many_chats_makes_no_slow_engine() -> None:
    host = Host(facts(chats_max=8))
    for number in range(30):
        host.send(ticket(f"usual {number}", tokens=10))
        host.end(f"usual {number}", used=usage(5, 5, ran_s=0.5))
    stalled = host.send(*(ticket(f"stalled {number}", tokens=10) for number in range(8)))
    host.now_s += 12.0
    host.report("m")
    host.end(*stalled, used=usage(5, 5, ran_s=12.0))
    assert _refused_of_a_crowd(host) == 0


@pytest.mark.parametrize("end", ["settled", "refused", "lost", "withdrawn"])
def test_a_chat_that_was_taken_over_can_end_in_any_way(end: str) -> None:
    host = Host(facts())
    host.scheduler.restore([Reservation("old", "a", "s", "m", KvBits.FOUR, 700, NOW_S, 700)], host.now_s)
    host.send(ticket("next", "b", tokens=400))
    if end == "withdrawn":
        host.scheduler.cancel("old", host.now_s)
    elif end == "lost":
        host.scheduler.lost("old", host.now_s)
    else:
        host.scheduler.settle("old", usage() if end == "settled" else None, host.now_s)
    assert host.step() == ["next"]


def test_what_an_engine_refuses_costs_no_fair_share() -> None:
    """The estimate of a chat that nobody tells of stands."""
    host = Host(facts(kv_budget_bytes=150))
    for tenant, end in (("refused", "settle"), ("lost", "lost")):
        host.send(ticket(tenant, tenant))
        if end == "lost":
            host.scheduler.lost(tenant, host.now_s)
        else:
            host.scheduler.settle(tenant, None, host.now_s)
        host.step()
    host.send(ticket("busy", "other"))
    host.send(ticket("second", "lost"), ticket("first", "refused"))
    assert [host.end("busy"), host.end("first")] == [["first"], ["second"]]


def test_what_an_engine_said_before_its_facts_were_read_counts() -> None:
    host = Host(facts())
    host.scheduler.engine_reported(EngineReport("m", NOW_S - 0.5, EngineState.ASLEEP))
    assert host.send(ticket("c")) == []
    host.scheduler.engine_reported(EngineReport("m", NOW_S - 0.6, EngineState.READY))
    assert host.step() == [], "older than what is known"
    assert host.wait(0.1) == ["c"]


def test_facts_alone_let_nobody_in_before_the_engine_reports() -> None:
    scheduler = Scheduler(SchedulerSettings())
    scheduler.engine_started(facts(), float("-inf"))
    scheduler.arrive(ticket("c"), NOW_S)
    assert scheduler.step(NOW_S) == []
    scheduler.engine_reported(EngineReport("m", NOW_S, EngineState.READY))
    assert [decision.chat for decision in scheduler.step(NOW_S)] == ["c"]


def test_running_sessions_are_lowered_for_a_chat_that_cannot_be() -> None:
    host = Host(facts())
    lowerable: dict[str, Any] = {"kv_bits": KvBits.EIGHT, "kv_bits_floor": KvBits.FOUR, "demotable": True}
    host.send(*(ticket(f"c{number}", tokens=150, **lowerable) for number in range(3)))
    host.send(ticket("exact", "b", tokens=120, kv_bits=KvBits.EIGHT, kv_bits_floor=KvBits.EIGHT))
    assert "exact" not in host.decided
    wanted = host.scheduler.demotions()
    assert [(one.kv_bits, one.freed_bytes) for one in wanted] == [(KvBits.FOUR, 150)], "no more than is needed"
    host.scheduler.demoted(wanted[0].chat, wanted[0].kv_bits, host.now_s)
    assert host.step() == ["exact"]
    assert host.scheduler.demotions() == []


def test_no_session_is_lowered_where_that_would_not_be_enough() -> None:
    host = Host(facts())
    host.send(ticket("c", tokens=400, kv_bits=KvBits.EIGHT, demotable=True), ticket("d", tokens=200))
    host.send(ticket("huge", "b", tokens=900))
    assert host.scheduler.demotions() == []


def test_the_next_step_is_due_when_something_can_change() -> None:
    host = Host(facts(), review_s=0.25)
    host.step()
    assert host.scheduler.next_step_s() is None, "nothing waits"
    host.send(ticket("running", tokens=900), ticket("c", tokens=900, deadline_s=NOW_S + 0.1))
    assert host.scheduler.next_step_s() == pytest.approx(NOW_S + 0.1)
    host.scheduler.settle("running", usage(), host.now_s)
    assert host.scheduler.next_step_s() == 0.0, "now"


def test_what_waits_for_a_model_that_was_given_up_ends_and_so_does_what_comes() -> None:
    """It waited until its deadline."""
    host = Host(facts(chats_max=1), facts("other"))
    host.send(ticket("runs"), ticket("waits"), ticket("elsewhere", overflow=True), ticket("other", model="other"))
    host.scheduler.give_up({"m"}, host.now_s)
    host.step()
    assert host.answer("waits") == (Outcome.REJECT, Reason.MODEL_DOWN)
    assert host.answer("elsewhere") == (Outcome.OVERFLOW, Reason.MODEL_DOWN)
    assert host.send(ticket("comes"), ticket("other's", model="other")) == ["other's"]
    assert host.answer("comes") == (Outcome.REJECT, Reason.MODEL_DOWN)
    host.end("runs")
    host.scheduler.give_up((), host.now_s)
    assert host.send(ticket("after")) == ["after"]
