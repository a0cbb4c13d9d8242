"""What is said to one ticket, given everything a decision sees."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from scheduler.admission import AdmissionContext, decide, options
from scheduler.ledger import Ledger
from scheduler.settings import ModelTargets, SchedulerSettings
from scheduler.step_time import StepTimeModel
from services.contracts.chats import KvBits, Ticket
from services.contracts.decisions import Decision, Outcome, Reason, Reservation
from services.contracts.devices import CPU
from services.contracts.engines import EngineFacts, EngineReport, EngineState

from .kit import NOW_S, facts, ticket


class Desk:
    """One engine with `taken` bytes reserved, and whatever else a decision depends on."""

    def __init__(self, engine: EngineFacts, taken: int = 0, **settings: Any) -> None:
        self.settings = SchedulerSettings(**{"page_tokens": 1, "latency_margin": 0.0, **settings})
        self.ledger, self.device = Ledger(), StepTimeModel(self.settings, CPU)
        self.account = self.ledger.started(engine, NOW_S)
        self.device.started(engine)
        if taken:
            self.ledger.reserve(Reservation("other", "b", "s", "m", KvBits.FOUR, taken, NOW_S, taken))
            self.device.add("m", taken)

    def ask(self, asked: Ticket, now_s: float = NOW_S, **ask: Any) -> Decision:
        chosen = AdmissionContext(options(asked, self.account.facts, self.settings), asked.prompt_tokens, **ask)
        return decide(asked, self.account, self.device, chosen, now_s)


def said(decision: Decision) -> tuple[Outcome, Reason]:
    return decision.outcome, decision.reason


def test_room_is_an_admission_with_the_bytes_to_reserve() -> None:
    decision = Desk(facts(), taken=900).ask(ticket("c", tokens=100))
    assert said(decision) == (Outcome.ADMIT, Reason.ROOM)
    assert (decision.reserve_bytes, decision.kv_bits) == (100, KvBits.FOUR)


def test_one_byte_short_waits_and_says_what_is_short() -> None:
    decision = Desk(facts(), taken=901).ask(ticket("c", tokens=100))
    assert said(decision) == (Outcome.WAIT, Reason.KV_MEMORY)
    assert decision.numbers == {"need_bytes": 100, "available_bytes": 99, "kept_bytes": 0}


def test_past_the_deadline_nothing_else_counts() -> None:
    assert said(Desk(facts()).ask(ticket("c", deadline_s=NOW_S))) == (Outcome.REJECT, Reason.DEADLINE)


@pytest.mark.parametrize(
    ("engine", "asked", "reason"),
    [
        (facts(context_tokens=99), ticket("c", tokens=100), Reason.NEVER_FITS),
        (facts(kv_budget_bytes=99), ticket("c", tokens=100), Reason.NEVER_FITS),
        (
            facts(kv_bytes_per_token={4: 1}),
            ticket("c", kv_bits=KvBits.EIGHT, kv_bits_floor=KvBits.EIGHT),
            Reason.KV_BITS,
        ),
        (
            facts(live_kv_bits=False, kv_bits=KvBits.FOUR),
            ticket("c", kv_bits=KvBits.EIGHT, kv_bits_floor=KvBits.EIGHT),
            Reason.KV_BITS,
        ),
    ],
)
def test_what_can_never_be_is_refused_at_once_or_goes_elsewhere(
    engine: EngineFacts, asked: Ticket, reason: Reason
) -> None:
    assert said(Desk(engine).ask(asked)) == (Outcome.REJECT, reason)
    elsewhere = ticket("c", overflow=True, kv_bits=asked.kv_bits, kv_bits_floor=asked.kv_bits_floor)
    assert said(Desk(engine).ask(elsewhere)) == (Outcome.OVERFLOW, reason)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (EngineState.STARTING, Reason.MODEL_DOWN),
        (EngineState.DRAINING, Reason.MODEL_DOWN),
        (EngineState.DOWN, Reason.MODEL_DOWN),
        (EngineState.ASLEEP, Reason.MODEL_ASLEEP),
    ],
)
def test_an_engine_that_is_not_ready_takes_nobody(state: EngineState, reason: Reason) -> None:
    desk = Desk(facts())
    desk.account.reported(EngineReport("m", NOW_S, state), 0)
    assert said(desk.ask(ticket("c"))) == (Outcome.WAIT, reason)


def test_an_engine_not_heard_of_counts_as_full() -> None:
    desk = Desk(facts(), telemetry_age_s_max=5.0)
    assert said(desk.ask(ticket("c"), now_s=NOW_S + 5.0)) == (Outcome.ADMIT, Reason.ROOM)
    assert said(desk.ask(ticket("c"), now_s=NOW_S + 5.1)) == (Outcome.WAIT, Reason.TELEMETRY_STALE)


def test_all_slots_taken_waits_although_memory_is_free() -> None:
    assert said(Desk(facts(chats_max=1), taken=1).ask(ticket("c"))) == (Outcome.WAIT, Reason.CHATS_MAX)


def test_a_demotable_chat_gets_the_best_precision_that_fits() -> None:
    def asked(demotable: bool) -> Ticket:
        return ticket("c", kv_bits=KvBits.SIXTEEN, kv_bits_floor=KvBits.FOUR, demotable=demotable)

    free = {400: KvBits.SIXTEEN, 399: KvBits.EIGHT, 200: KvBits.EIGHT, 199: KvBits.FOUR, 100: KvBits.FOUR}
    for size, bits in free.items():
        decision = Desk(facts(), taken=1000 - size).ask(asked(True))
        assert (decision.outcome in (Outcome.ADMIT, Outcome.ADMIT_DEMOTED), decision.kv_bits) == (True, bits), size
        assert (decision.outcome is Outcome.ADMIT_DEMOTED) == (bits < KvBits.SIXTEEN)
    assert said(Desk(facts(), taken=901).ask(asked(True))) == (Outcome.WAIT, Reason.KV_MEMORY)
    assert said(Desk(facts(), taken=601).ask(asked(False))) == (Outcome.WAIT, Reason.KV_MEMORY)


def test_an_engine_with_more_bits_than_asked_serves_at_those_and_charges_for_them() -> None:
    decision = Desk(facts(live_kv_bits=False, kv_bits=KvBits.SIXTEEN)).ask(ticket("c", tokens=100))
    assert (decision.outcome, decision.kv_bits, decision.reserve_bytes) == (Outcome.ADMIT, KvBits.SIXTEEN, 400)


def test_a_chat_that_would_slow_the_model_past_its_target_waits() -> None:
    targets = {"m": ModelTargets(inter_token_ms_max=15.0)}  # 1,000 bytes of weights + 499 of KV take 14.99 ms
    desk = Desk(facts(), taken=399, targets=targets, bandwidth_bytes_per_s={CPU: 100_000.0})
    assert said(desk.ask(ticket("c", tokens=100))) == (Outcome.ADMIT, Reason.ROOM)
    decision = desk.ask(ticket("c", tokens=102))
    assert said(decision) == (Outcome.WAIT, Reason.BANDWIDTH)
    assert decision.numbers["predicted_ms"] == pytest.approx(15.01)


def test_fewer_bits_can_buy_bandwidth() -> None:
    targets = {"m": ModelTargets(inter_token_ms_max=15.0)}
    desk = Desk(facts(), taken=399, targets=targets, bandwidth_bytes_per_s={CPU: 100_000.0})
    asked = ticket("c", tokens=100, kv_bits=KvBits.EIGHT, demotable=True)
    assert (desk.ask(asked).outcome, desk.ask(asked).kv_bits) == (Outcome.ADMIT_DEMOTED, KvBits.FOUR)


def test_prompts_are_not_piled_up_in_the_engine() -> None:
    desk = Desk(facts(), prefill_ahead_s_max=0.25)
    desk.device.prefill("m", 0.3, NOW_S)
    assert said(desk.ask(ticket("c"))) == (Outcome.WAIT, Reason.FIRST_TOKEN)
    assert said(desk.ask(ticket("c"), now_s=NOW_S + 0.06)) == (Outcome.ADMIT, Reason.ROOM)


def test_a_tenant_above_its_share_leaves_headroom_to_the_others() -> None:
    desk = Desk(facts(), taken=750, headroom=0.2)
    asked = ticket("c", tokens=100)
    assert said(desk.ask(asked)) == (Outcome.ADMIT, Reason.ROOM)
    assert said(desk.ask(asked, over_share=True)) == (Outcome.WAIT, Reason.KV_MEMORY)
    assert desk.ask(asked, over_share=True).numbers["kept_bytes"] == 200


def test_headroom_too_small_for_such_a_chat_is_not_kept() -> None:
    desk = Desk(facts(), taken=750, headroom=0.2)
    assert said(desk.ask(ticket("c", tokens=250), over_share=True)) == (Outcome.ADMIT, Reason.ROOM)


def test_a_decision_changes_nothing_and_is_the_same_again() -> None:
    desk = Desk(facts(), taken=500)
    before = deepcopy((desk.account.reserved_bytes, dict(desk.account.reservations), desk.device.steps_s(NOW_S)))
    first, second = desk.ask(ticket("c")), desk.ask(ticket("c"))
    assert first == second
    assert before == (desk.account.reserved_bytes, dict(desk.account.reservations), desk.device.steps_s(NOW_S))
