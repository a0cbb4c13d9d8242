"""Who is served, when more is asked than there is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fairness import FairnessOrder, LeastFirst, SlotUse
from scheduler.settings import TenantShare

from .kit import NOW_S, Host, facts, ticket, usage


def served(host: Host, tenants: list[str], rounds: int) -> Counter[str]:
    """Every tenant always has something waiting; one chat runs at a time. How many chats each got."""
    count: Counter[str] = Counter()
    number = 0
    running: list[str] = []
    for _ in range(rounds):
        for tenant in tenants:
            while host.scheduler.wait_queue.queues.per_tenant.get(tenant, 0) < 3:
                number += 1
                running += host.send(ticket(f"{tenant}-{number}", tenant, tokens=1000))
        host.wait(0.1)
        count.update(chat.partition("-")[0] for chat in running)
        running = host.end(*running)
    return count


def one_at_a_time(**shares: TenantShare) -> Host:
    return Host(facts(context_tokens=1000), shares=shares)


def test_equal_tenants_get_equal_service() -> None:
    got = served(one_at_a_time(), ["a", "b", "c"], 90)
    assert max(got.values()) - min(got.values()) <= 2


def test_service_follows_weights() -> None:
    got = served(one_at_a_time(a=TenantShare(weight=3.0)), ["a", "b"], 120)
    assert 2.7 <= got["a"] / got["b"] <= 3.3


def test_a_tenant_alone_gets_everything() -> None:
    assert served(one_at_a_time(), ["a"], 30)["a"] == 30


def test_being_idle_earns_no_credit() -> None:
    host = one_at_a_time()
    served(host, ["a"], 60)
    got = served(host, ["a", "late"], 40)
    assert got["late"] - got["a"] <= 2


def test_a_tenant_that_was_served_much_while_alone_owes_nothing_for_it() -> None:
    host = one_at_a_time()
    served(host, ["a"], 60)
    got = served(host, ["late", "a"], 40)
    assert got["a"] >= got["late"] - 2


def test_service_is_counted_in_tokens_not_in_chats() -> None:
    """`long` has chats with ten times the tokens of `short`, so it gets about a tenth as many."""
    host = Host(facts(context_tokens=1000))
    count: Counter[str] = Counter()
    running: list[str] = []
    for number in range(200):
        running += host.send(ticket(f"short-{number}", "short", tokens=1000))
        running += host.send(ticket(f"long-{number}", "long", tokens=1000))
        for chat in running:
            tenant = chat.partition("-")[0]
            count[tenant] += 1
            size = 500 if tenant == "long" else 50
            host.scheduler.settle(chat, usage(size, size), host.now_s)
        running = host.wait(0.1)
    assert 7 <= count["short"] / count["long"] <= 13


def test_what_was_charged_too_much_is_given_back() -> None:
    host = Host(facts())
    host.send(ticket("c", "a", tokens=800))
    charged = host.scheduler.accounting.counters.value("a")
    host.end("c", used=usage(10, 5))
    assert host.scheduler.accounting.counters.value("a") == 10 + 2 * 5 < charged


def test_cached_prompt_tokens_are_cheaper() -> None:
    host = Host(facts())
    host.send(ticket("c", "a", tokens=800))
    host.end("c", used=usage(prompt=400, completion=0, cached=300))
    assert host.scheduler.accounting.counters.value("a") == 100 + 0.1 * 300


@given(
    st.lists(st.tuples(st.sampled_from(["add", "discard", "pop", "grow", "shrink"]), st.integers(0, 9)), max_size=80)
)
def test_least_first_always_gives_the_least(actions: list[tuple[str, int]]) -> None:
    keys = {str(name): (float(name), 0.0, str(name)) for name in range(10)}
    queue = LeastFirst(keys)
    members: set[str] = set()
    for action, number in actions:
        name = str(number)
        if action == "add":
            queue.add(name)
            members.add(name)
        elif action == "discard":
            queue.discard(name)
            members.discard(name)
        elif action == "pop":
            least = min(members, key=lambda n: keys[n], default=None)
            assert queue.pop() == least
            members.discard(least or "")
        else:
            keys[name] = (keys[name][0] + (5.0 if action == "grow" else -5.0), 0.0, name)
            if action == "shrink":
                queue.touch(name)
        assert len(queue) == len(members)


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "grow", "shrink"]), st.integers(0, 9)), max_size=80))
def test_the_front_holds_the_first_of_all(actions: list[tuple[str, int]]) -> None:
    keys = {str(name): (float(name), 0.0, str(name)) for name in range(10)}
    order = FairnessOrder(keys, size=3)
    members: set[str] = set()
    for action, number in actions:
        name = str(number)
        if action == "add":
            order.add(name)
            members.add(name)
        elif action == "discard":
            order.discard(name)
            members.discard(name)
        elif action == "grow":
            keys[name] = (keys[name][0] + 4.0, 0.0, name)
            order.moved(name)
        else:
            keys[name] = (keys[name][0] - 4.0, 0.0, name)
            order.moved(name)
        assert len(order.front) == min(3, len(members)), "full unless there are no more"
        assert {key[2] for key in order.front} <= members
    order.refresh()
    assert [key[2] for key in order.front] == sorted(members, key=lambda n: keys[n])[:3]


@pytest.mark.parametrize("slots", range(2, 12))
def test_a_quiet_tenant_finds_a_slot_under_a_flood_however_few_there_are(slots: int) -> None:
    host = Host(facts(chats_max=slots), headroom=0.1)
    host.send(ticket("seen", "quiet", tokens=10))
    host.end("seen")
    flood = host.send(*(ticket(f"f{number}", "flood", tokens=10) for number in range(2 * slots)))
    assert len(flood) == slots - 1
    assert host.send(ticket("q", "quiet", tokens=10)) == ["q"]


def test_one_slot_is_for_whoever_comes_first() -> None:
    host = Host(facts(chats_max=1), headroom=0.1)
    host.send(ticket("seen", "quiet", tokens=10))
    host.end("seen")
    assert host.send(ticket("f", "flood", tokens=10), ticket("f2", "flood", tokens=10)) == ["f"]
    assert host.end("f") == ["f2"]


def run_for(host: Host, seconds: int, *tenants: str) -> tuple[Counter[str], list[str]]:
    """Tenants that always have something waiting; a chat takes a second. How many chats each got, and what runs now."""
    count: Counter[str] = Counter()
    running: list[str] = []
    for _ in range(seconds):
        for tenant in tenants:
            while host.scheduler.wait_queue.queues.per_tenant.get(tenant, 0) < 3:
                count["sent"] += 1
                running += host.send(ticket(f"{tenant}-{count['sent']}", tenant, tokens=10, deadline_s=NOW_S + 1e6))
        count.update(chat.partition("-")[0] for chat in running)
        running += host.wait(1.0)
        running = host.end(*running)
    return count, running


def flooded(slots: int, *floods: str, seconds: int = 300) -> tuple[Host, list[str]]:
    """A host where a quiet tenant was seen once, and floods had chats for minutes. What runs now."""
    host = Host(facts(chats_max=slots), headroom=0.1)
    host.send(ticket("seen", "quiet", tokens=10))
    host.end("seen")
    return host, run_for(host, seconds, *floods)[1]


def test_a_flood_does_not_take_its_slot_back_while_that_is_the_last_one() -> None:
    host, running = flooded(2, "flood")
    assert len(running) == 1
    assert host.send(ticket("q1", "quiet", tokens=10, deadline_s=NOW_S + 1e6)) == ["q1"]
    assert host.end(*running) == [], "the slot that is free now is the one kept"
    assert host.send(ticket("q2", "quiet", tokens=10, deadline_s=NOW_S + 1e6)) == ["q2"], "for its next chat, too"
    assert host.end("q2") == []
    assert len(host.end("q1")) == 1, "two are free again, so the flood has one"


def test_two_floods_leave_a_slot_to_a_quiet_tenant() -> None:
    host, running = flooded(2, "one", "two")
    assert len(running) == 1
    assert host.send(ticket("q", "quiet", tokens=10, deadline_s=NOW_S + 1e6)) == ["q"]


def test_two_floods_with_nobody_else_about_use_every_slot() -> None:
    _, running = flooded(2, "one", "two", seconds=700)  # the quiet tenant was seen too long ago
    assert len(running) == 2


def test_equal_tenants_with_few_slots_have_equal_parts_and_every_slot() -> None:
    host = Host(facts(chats_max=3), headroom=0.1)
    count, running = run_for(host, 400, "a", "b", "c")
    assert len(running) == 3
    got = [count[name] for name in "abc"]
    assert sum(got) >= 3 * 390
    assert max(got) - min(got) <= 3


def test_the_use_of_slots_fades() -> None:
    use = SlotUse(0.0)
    use.add("flood", 2, 0.0)
    use.add("quiet", 1, 590.0)
    use.add("quiet", -1, 600.0)
    for tenant, heavy in (("flood", True), ("quiet", False), ("new", False)):
        assert use.heavy(tenant, 0.5, 600.0) is heavy
        assert use.light(tenant, 0.5, 600.0) is not heavy
    use.add("flood", -2, 600.0)
    assert not use.heavy("flood", 0.5, 900.0), "it burdened nobody of late"
    assert not use.light("quiet", 0.5, 900.0), "an idle model says nothing of its tenants"


def test_tenants_whose_use_has_faded_are_forgotten() -> None:
    use = SlotUse(0.0)
    for number in range(500):
        use.add(f"t{number}", 1, 100.0 * number)
        use.add(f"t{number}", -1, 100.0 * number + 1.0)
    assert len(use) < 100
