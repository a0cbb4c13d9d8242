"""Short runs of what the benchmark measures: the order of things must already show."""

from __future__ import annotations

import pytest

from benchmarks.simulation.scenarios import few_slots, flood, models_held, overload, ratio_p99, sessions
from services.contracts.devices import Sharing
from services.evidence.statistics import percentile

SEED = 3


def test_a_quiet_tenant_hardly_notices_a_flood_that_fifo_would_drown_it_in() -> None:
    alone = flood("bunkhouse", False, seed=SEED, seconds=200.0)
    beside = flood("bunkhouse", True, seed=SEED, seconds=200.0)
    drowned = flood("fifo", True, seed=SEED, seconds=200.0)
    assert len(beside) == len(alone), "none is lost"
    assert ratio_p99(beside, alone) <= 1.15
    assert ratio_p99(drowned, alone) > 3.0


@pytest.mark.parametrize(("slots", "floods", "part"), [(2, 1, 0.9), (3, 1, 0.9), (4, 1, 0.99), (2, 2, 0.9)])
def test_a_few_slots_are_enough_for_a_quiet_tenant(slots: int, floods: int, part: float) -> None:
    """One slot is kept: of two or three, that is enough unless two of its chats come at once; of four, even then."""
    alone, beside = (few_slots(slots, count, seed=SEED, seconds=1500.0) for count in (0, floods))
    assert percentile(beside, part) <= 1.1 * percentile(alone, part)


@pytest.mark.parametrize(("sharing", "chats_per_s"), [(Sharing.TURNS, 18), (Sharing.SPACE, 27)])
def test_goodput_stays_when_three_times_too_much_is_asked(sharing: Sharing, chats_per_s: int) -> None:
    peak, offered, _ = overload("bunkhouse", chats_per_s, seed=SEED, seconds=60.0, sharing=sharing)
    flooded, _, breaks = overload("bunkhouse", 3 * chats_per_s, seed=SEED, seconds=60.0, sharing=sharing)
    assert peak > 0.9 * offered
    assert flooded >= 0.95 * peak
    assert breaks <= 0.03
    assert overload("fifo", 3 * chats_per_s, seed=SEED, seconds=60.0, sharing=sharing)[0] < 0.5 * flooded


def test_fewer_bits_hold_more_chats_within_target() -> None:
    auto, auto_breaks = sessions("auto", seed=SEED, seconds=120.0)
    sixteen, _ = sessions("fixed", seed=SEED, seconds=120.0)
    assert auto >= 2.3 * sixteen
    assert auto_breaks <= 0.01


def test_a_card_holds_twice_the_models_at_4_bits() -> None:
    assert models_held(4) >= 2 * models_held(16)
