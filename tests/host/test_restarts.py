"""Back-off: 1 s doubling to 30 s, and an end to it."""

from __future__ import annotations

from services.host.restarts import Restarts


def test_pauses_double_and_then_it_gives_up() -> None:
    restarts = Restarts()
    assert [restarts.died(now) for now in range(5)] == [1.0, 2.0, 4.0, 8.0, None]
    assert restarts.total == 5


def test_pauses_have_a_bound() -> None:
    restarts = Restarts(deaths_max=100)
    assert max(restarts.died(now) or 0.0 for now in range(50)) == 30.0


def test_old_deaths_are_forgotten() -> None:
    restarts = Restarts()
    assert [restarts.died(now * 121.0) for now in range(20)] == [1.0] * 20


def test_a_slow_crash_loop_goes_on_with_pauses() -> None:
    restarts = Restarts()
    assert None not in [restarts.died(now * 40.0) for now in range(50)]


def test_a_part_that_is_killed_again_and_again_is_started_again_and_again() -> None:
    """Every 20 s: the host gave up at the fifth time."""
    restarts = Restarts()
    assert [restarts.died(now * 20.0, lived_s=19.0) for now in range(20)] == [1.0] * 20


def test_a_good_start_does_not_hide_a_crash_loop_after_it() -> None:
    restarts = Restarts()
    lives_s = [3600.0, 0.5, 0.5, 0.5, 0.5]
    assert [restarts.died(float(now), lived_s) for now, lived_s in enumerate(lives_s)] == [1.0, 2.0, 4.0, 8.0, None]
