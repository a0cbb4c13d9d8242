"""Memory is promised once, and never more than there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.ledger import Account, Ledger, reserve_bytes
from services.contracts.chats import KvBits
from services.contracts.decisions import Reservation
from services.contracts.devices import CPU, DeviceReport
from services.contracts.engines import EngineReport, EngineState

from .kit import NOW_S, facts

BOUND = 50


def held(chat: str, size: int, model: str = "m", tenant: str = "a") -> Reservation:
    return Reservation(chat, tenant, "s", model, KvBits.FOUR, size, NOW_S, size)


def ledger(*reservations: Reservation) -> tuple[Ledger, Account]:
    made = Ledger()
    account = made.started(facts(), NOW_S)
    for one in reservations:
        made.reserve(one)
    return made, account


def report(account: Account, at_s: float = NOW_S + 10, **values: int) -> None:
    account.reported(EngineReport("m", at_s, EngineState.READY, **values), BOUND)


def test_bytes_are_whole_pages_at_their_precision() -> None:
    assert reserve_bytes(facts(), tokens=17, bits=8, page_tokens=16) == 64
    assert reserve_bytes(facts(), tokens=16, bits=4, page_tokens=16) == 16


def test_the_last_page_may_be_cut_short_where_the_pool_ends() -> None:
    assert reserve_bytes(facts(kv_budget_bytes=100), tokens=100, bits=4, page_tokens=64) == 100


def test_what_is_reserved_is_not_available_until_it_is_released() -> None:
    books, account = ledger(held("c1", 300), held("c2", 200))
    assert account.available_bytes == 500
    books.release("c1", NOW_S)
    assert account.available_bytes == 800
    assert books.release("c1", NOW_S) is None, "a second release gives nothing back"
    assert account.available_bytes == 800


def test_cached_prefixes_are_available_and_counted_apart() -> None:
    books, account = ledger(held("c1", 300))
    report(account, kv_cached_bytes=400)
    assert (account.cached_bytes, account.free_bytes, account.available_bytes) == (400, 300, 700)
    books.check_integrity()


def test_an_engine_that_uses_more_than_the_ledger_knows_has_less_to_give() -> None:
    books, account = ledger(held("c1", 300))
    report(account, kv_used_bytes=300 + BOUND)
    assert account.available_bytes == 700, "within the bound nothing happens"
    report(account, at_s=NOW_S + 11, kv_used_bytes=300 + BOUND + 1)
    assert account.available_bytes == 700 - BOUND - 1
    books.check_integrity()
    report(account, at_s=NOW_S + 12, kv_used_bytes=10)
    assert account.available_bytes == 700, "using less than promised never raises the budget"


def test_a_chat_that_just_ended_is_no_drift() -> None:
    books, account = ledger(held("c1", 300))
    books.release("c1", NOW_S + 9.9)
    report(account, at_s=NOW_S + 10, kv_used_bytes=300)
    assert account.available_bytes == 1000
    report(account, at_s=NOW_S + 20, kv_used_bytes=300)
    assert account.available_bytes == 700, "still there ten seconds later, it is"


def test_strangers_on_a_full_device_take_from_every_engine_in_proportion() -> None:
    books, small = ledger()
    large = books.started(facts("n", kv_budget_bytes=3000), NOW_S)
    known = 1000 + 1000 + 1000 + 3000  # weights and pools
    books.device_reported(DeviceReport(CPU, NOW_S, known + 5000, known + 400), BOUND)
    assert (books.device_drift_bytes[CPU], small.available_bytes) == (400, 1000), (
        "seen, and harmless while memory is free"
    )
    books.device_reported(DeviceReport(CPU, NOW_S, known + 410, known + 400), BOUND)
    assert (small.available_bytes, large.available_bytes) == (900, 2700)
    books.check_integrity()
    books.device_reported(DeviceReport(CPU, NOW_S, known + 410, known - 500), BOUND)
    assert (small.available_bytes, large.available_bytes) == (1000, 3000), "never more than the pools"


def test_an_engine_that_is_not_on_the_device_is_not_held_against_it() -> None:
    books, there = ledger()
    elsewhere = books.started(facts("n", device="gpu0"), NOW_S)
    books.device_reported(DeviceReport(CPU, NOW_S, 2410, 2400), BOUND)
    assert books.device_drift_bytes == {CPU: 400}
    assert (there.available_bytes, elsewhere.available_bytes) == (600, 1000)


def test_a_sleeping_engine_has_no_memory() -> None:
    books, account = ledger()
    account.reported(EngineReport("m", NOW_S + 1, EngineState.ASLEEP), BOUND)
    assert (account.total_bytes, account.available_bytes) == (0, 0)
    books.check_integrity()


def test_an_engine_that_comes_back_smaller_is_overcommitted_and_not_negative() -> None:
    books, account = ledger(held("c1", 700))
    books.started(facts(kv_budget_bytes=500), NOW_S)
    assert (account.available_bytes, account.overcommitted_bytes) == (0, 200)
    books.check_integrity()


def test_reservations_restored_before_their_engine_is_known_count_once_it_is() -> None:
    books = Ledger()
    books.restore([held("c1", 300)])
    account = books.started(facts(), NOW_S)
    assert account.available_bytes == 700
    books.check_integrity()
    books.release("c1", NOW_S)
    assert account.available_bytes == 1000


def test_integrity_notices_a_lost_byte() -> None:
    books, account = ledger(held("c1", 300))
    account.reservations["c1"] = replace(account.reservations["c1"], reserved_bytes=299)
    with pytest.raises(AssertionError, match="reserved"):
        books.check_integrity()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("reserve"), st.integers(0, 9), st.integers(1, 400)),
            st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("report"), st.integers(0, 2000), st.integers(0, 2000)),
            st.tuples(st.just("restart"), st.integers(100, 2000), st.just(0)),
        ),
        max_size=60,
    )
)
def test_the_sums_hold_whatever_happens(actions: list[tuple[str, int, int]]) -> None:
    books, account = ledger()
    for number, (action, first, second) in enumerate(actions):
        at_s = NOW_S + number
        if action == "reserve":
            books.release(f"c{first}", at_s)
            books.reserve(held(f"c{first}", second, tenant=f"t{first % 3}"))
        elif action == "release":
            books.release(f"c{first}", at_s)
        elif action == "report":
            report(account, at_s=at_s, kv_used_bytes=first, kv_cached_bytes=second)
        else:
            books.started(facts(kv_budget_bytes=first), at_s)
        books.check_integrity()
        assert 0 <= account.available_bytes <= account.total_bytes
