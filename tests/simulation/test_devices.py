"""What two models do to each other: on one device much, on two nothing."""

from __future__ import annotations

from statistics import mean

import pytest

from benchmarks.simulation.baselines import Bunkhouse
from benchmarks.simulation.gpu import GAP_S, LAYERS
from benchmarks.simulation.scenarios import CARD_24GB, GIB, neighbours
from benchmarks.simulation.world import World
from services.contracts.devices import DeviceReport, Sharing

SEED, SECONDS = 4, 120.0


def pace(world: World) -> list[tuple[float | None, float | None]]:
    """Time to first token and between tokens of the quiet model's chats, in order of arrival."""
    chats = [chat for chat in world.chats.values() if chat.ticket.tenant == "quiet"]
    assert chats
    assert all(chat.answered for chat in chats)
    return [(chat.ttft_s, chat.inter_token_s) for chat in chats]


def test_models_slow_each_other_down_on_one_device_and_not_on_two() -> None:
    alone = pace(neighbours(1, beside=False, seed=SEED, seconds=SECONDS))
    apart = pace(neighbours(2, beside=True, seed=SEED, seconds=SECONDS))
    together = pace(neighbours(1, beside=True, seed=SEED, seconds=SECONDS))
    assert apart == [pytest.approx(times, rel=0.01) for times in alone]
    assert mean(between or 0.0 for _, between in together) > 1.5 * mean(between or 0.0 for _, between in alone)


def test_in_space_neighbours_cost_less_than_in_turns_and_predictions_know_it() -> None:
    alone, turns, space = (
        neighbours(1, beside=beside, seed=SEED, seconds=SECONDS, sharing=sharing)
        for beside, sharing in ((False, Sharing.SPACE), (True, Sharing.TURNS), (True, Sharing.SPACE))
    )
    between = [mean(s or 0.0 for _, s in pace(world)) for world in (alone, space, turns)]
    assert between == sorted(between)
    assert between[1] < 0.95 * between[2]
    scheduler = space.subject
    assert isinstance(scheduler, Bunkhouse)
    assert scheduler.snapshot(space.gpu.now_s).devices["gpu0"].sharing == "space"
    correction = scheduler.accounting.devices["gpu0"].loads["m0"].correction
    card = CARD_24GB.shared(Sharing.SPACE)
    read_s = scheduler.accounting.devices["gpu0"].loads["m0"].weight_bytes / card.bandwidth
    expected = card.friction - LAYERS * GAP_S / read_s
    assert correction == pytest.approx(expected, rel=0.15), "friction is what it learns, less the gaps"


@pytest.mark.parametrize(("devices", "withheld"), [(1, {"m0", "m1"}), (2, {"m0"})])
def test_a_stranger_takes_from_the_ledger_of_its_device_alone(devices: int, withheld: set[str]) -> None:
    world = neighbours(devices, beside=True, seed=SEED, seconds=30.0)
    scheduler = world.subject
    assert isinstance(scheduler, Bunkhouse)
    now_s = world.gpu.now_s
    scheduler.device_reported(DeviceReport("gpu0", now_s, 30 * GIB, 30 * GIB))
    seen = scheduler.snapshot(now_s)
    assert {name for name, model in seen.models.items() if model.withheld_bytes} == withheld
    assert {name: device.drift_bytes is not None for name, device in seen.devices.items()} == {
        f"gpu{number}": number == 0 for number in range(devices)
    }
    scheduler.check_integrity()
