"""Why a chat waits, runs or was refused, in words and numbers; and the state as one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from scheduler.settings import SchedulerSettings, TenantShare
from services.contracts.decisions import Reason

from .kit import Host, facts, ticket, usage


def test_a_waiting_chat_is_told_what_is_short_and_where_it_stands() -> None:
    host = Host(facts())
    host.send(ticket("running", tokens=900), ticket("c1", tokens=300), ticket("c2", tokens=300))
    host.now_s += 2
    why = host.why("c2")
    assert (why["state"], why["position"], why["waited_s"]) == ("waiting", 2, 2.0)
    assert why["numbers"] == {"need_bytes": 300, "available_bytes": 100, "kept_bytes": 0}
    assert "300 B" in why["why"]
    assert "100 B are available" in why["why"]


def test_the_wait_is_expected_from_how_fast_chats_end() -> None:
    host = Host(facts())
    host.send(ticket("first", tokens=900))
    host.now_s += 8
    host.end("first")
    host.report("m")
    host.send(ticket("running", tokens=900), ticket("c1", tokens=900), ticket("c2", tokens=900))
    assert host.why("c1")["expected_wait_s"] == pytest.approx(8.0)
    assert host.why("c2")["expected_wait_s"] == pytest.approx(16.0)


def _of_eight_seconds_a_chat(shares: Mapping[str, TenantShare]) -> Host:
    """One at a time, and one of tenant `z` runs."""
    host = Host(facts(), shares=shares)
    host.send(ticket("first", "z", tokens=900))
    host.now_s += 8
    host.report("m")
    host.end("first")
    assert host.send(ticket("running", "z", tokens=900))
    return host


def test_a_tenants_wait_follows_its_weight_among_those_that_wait_now() -> None:
    shares = {"a": TenantShare(weight=0.1), "b": TenantShare(weight=0.3), "c": TenantShare(weight=0.6)}
    host = _of_eight_seconds_a_chat(shares)
    host.send(*(ticket(f"{name}{n}", name, tokens=900, deadline_s=1e6) for name in "abc" for n in range(2)))

    def waits() -> list[float]:
        """Of each tenant's first chat that waits."""
        return [host.why(f"{tenant}1")["expected_wait_s"] for tenant in "abc" if host.scheduler.waiting(f"{tenant}1")]

    assert waits() == pytest.approx([160.0, 16 / 0.3, 16 / 0.6])
    host.scheduler.configure(replace(host.scheduler.settings, shares={**shares, "b": TenantShare(weight=1.3)}))
    assert waits() == pytest.approx([320.0, 32 / 1.3, 32 / 0.6])
    for chat in ("b0", "b1"):
        host.scheduler.cancel(chat, host.now_s)
    host.step()
    assert waits() == pytest.approx([112.0, 112 / 6])


def test_what_comes_costs_no_look_at_every_tenant_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    host = _of_eight_seconds_a_chat({"z": TenantShare(weight=2.0)})
    host.send(*(ticket(f"c{number}", f"t{number}", tokens=900, deadline_s=1e6) for number in range(1000)))
    asked, share = [], SchedulerSettings.share

    def counted(settings: SchedulerSettings, tenant: str) -> TenantShare:
        asked.append(tenant)
        return share(settings, tenant)

    monkeypatch.setattr(SchedulerSettings, "share", counted)
    host.scheduler.arrive(ticket("last", "z", tokens=900, deadline_s=1e6), host.now_s)
    host.scheduler.step(host.now_s)
    assert len(asked) < 20
    assert host.why("last")["expected_wait_s"] == pytest.approx(8 * 1002 / 2)


def test_running_settled_refused_and_unknown_chats() -> None:
    host = Host(facts())
    host.send(ticket("c", tokens=300), ticket("too-long", tokens=2000))
    assert (host.why("c")["state"], host.why("c")["reserved_bytes"]) == ("running", 300)
    host.end("c")
    assert host.why("c")["state"] == "settled"
    assert (host.why("too-long")["state"], host.why("too-long")["reason"]) == ("refused", "never_fits")
    assert host.why("nobody") == {"chat": "nobody", "state": "unknown", "numbers": {}}


def test_a_running_chat_and_one_that_ended_are_described_as_what_they_are() -> None:
    host = Host(facts())
    host.send(ticket("c", tokens=800), ticket("gone", tokens=800))
    host.now_s += 4
    assert host.why("c")["why"] == "It was let in 4.0 s ago and runs, with 800 B of KV memory reserved at 4 bits."
    host.scheduler.cancel("gone", host.now_s)
    host.end("c", used=usage(100, 60, ran_s=3.5))
    host.now_s += 2
    assert host.why("c")["why"] == "It ran and ended 2.0 s ago, after 60 tokens in 3.5 s."
    assert (host.why("c")["completion_tokens"], host.why("c")["bot"]) == (60, "a/bot")
    assert host.why("gone")["state"] == "cancelled"
    assert host.why("gone")["why"] == "Its client left 2.0 s ago, before it ran."


def test_a_chat_overtaken_too_often_is_named_to_those_who_wait_for_it() -> None:
    host = Host(facts(), overtakes_max=1)
    host.send(ticket("half", "z", tokens=500))
    host.send(ticket("big", "a", tokens=800))
    host.send(ticket("small", "b", tokens=50))
    host.send(ticket("later", "c", tokens=50))
    assert host.why("later")["model_kept_for"] == "big"
    assert host.why("big")["overtaken"] == 1


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason: Reason) -> None:
    from scheduler.decision_log import SENTENCES

    assert len(SENTENCES[reason]) > 20


def test_a_snapshot_is_json_and_adds_up() -> None:
    host = Host(facts())
    host.wait(0.1, kv_used_bytes=120, kv_cached_bytes=300)
    host.send(ticket("c", tokens=300), ticket("d", "b", tokens=900))
    snapshot = json.loads(json.dumps(host.scheduler.snapshot(host.now_s).as_dict()))
    model = snapshot["models"]["m"]
    assert model["free_bytes"] + model["reserved_bytes"] + model["cached_bytes"] == model["budget_bytes"] == 1000
    assert model["reserved_by_bits"] == {"4": 300}
    assert model["used_bytes"] == 120
    assert (snapshot["waiting"], model["waiting"], model["blocked"]) == (1, {"b": 1}, {"b": "kv_memory"})
    assert snapshot["kv_bytes_per_tenant"] == {"a": 300}
