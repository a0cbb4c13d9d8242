"""What decoding is predicted to cost, and how predictions are put right."""

from __future__ import annotations

import pytest

from scheduler.settings import ModelTargets, SchedulerSettings
from scheduler.step_time import DUTY_S, StepTimeModel
from services.contracts.decisions import Reason
from services.contracts.devices import CPU, Sharing, gpu
from services.contracts.engines import EngineReport, EngineState

from .kit import NOW_S, facts

BANDWIDTH = 100_000.0


def device(**targets_ms: float) -> StepTimeModel:
    targets = {model: ModelTargets(inter_token_ms_max=most) for model, most in targets_ms.items()}
    made = StepTimeModel(SchedulerSettings(targets=targets, bandwidth_bytes_per_s={CPU: BANDWIDTH}), CPU)
    made.started(facts("m"))
    made.started(facts("n", weight_bytes=2000))
    return made


def observe(made: StepTimeModel, inter_token_s: float, kv_bytes: int, times: int = 200) -> None:
    for number in range(times):
        made.reported(
            EngineReport("m", NOW_S + number, EngineState.READY, inter_token_s=inter_token_s, step_kv_bytes=kv_bytes)
        )


def test_engines_that_share_the_device_add_up_and_idle_ones_do_not() -> None:
    made = device()
    assert made.predicted_s("m", NOW_S) is None, "nothing runs"
    made.add("m", 500)
    assert made.predicted_s("m", NOW_S) == pytest.approx(0.015)
    made.add("n", 1500)
    assert made.predicted_s("m", NOW_S) == pytest.approx(0.050)
    made.remove("n", 1500)
    assert made.predicted_s("m", NOW_S) == pytest.approx(0.015)


def test_an_admission_is_refused_for_the_sake_of_another_model() -> None:
    made = device(m=45.0)
    made.add("m", 500)
    broken = made.breaks("n", 1500, 0.0, NOW_S)
    assert broken is not None
    assert broken[:2] == (Reason.BANDWIDTH, "m")
    assert made.breaks("n", 900, 0.0, NOW_S) is None


def mixture() -> StepTimeModel:
    """1,000 bytes, 800 of them of 8 experts, of which a token uses 2."""
    made = device(e=13.0)
    made.started(facts("e", weight_bytes=1000, routed_bytes=800, routed_part=0.25))
    return made


def test_a_mixture_reads_the_experts_that_its_chats_use() -> None:
    made = mixture()
    for chats in (1, 2, 3):
        made.add("e", 0)
        assert made.predicted_s("e", NOW_S) == pytest.approx((1000 - int(800 * 0.75**chats)) / BANDWIDTH)
    made.remove("e", 0)
    assert made.predicted_s("e", NOW_S) == pytest.approx(0.0055)
    made.started(facts("e", weight_bytes=1000, routed_bytes=800, routed_part=0.5))
    assert made.predicted_s("e", NOW_S) == pytest.approx(0.008)


def test_one_more_chat_of_a_mixture_costs_the_experts_that_it_adds() -> None:
    made = mixture()
    made.add("e", 0)
    assert not made.loads["e"].unattainable, "alone it takes 4 ms"
    assert made.breaks("e", 700, 0.0, NOW_S) is None  # 550 + 700 bytes: 12.5 ms
    broken = made.breaks("e", 800, 0.0, NOW_S)
    assert broken is not None
    assert broken[2] == pytest.approx(0.0135)


def test_a_target_of_an_idle_model_holds_nobody_up() -> None:
    made = device(m=20.0)
    assert made.breaks("n", 1500, 0.0, NOW_S) is None


def test_a_target_out_of_reach_even_alone_is_not_weighed_and_shown() -> None:
    made = device(n=10.0)
    assert made.loads["n"].unattainable
    assert made.breaks("n", 100, 0.0, NOW_S) is None


def test_observed_latencies_correct_the_prediction() -> None:
    made = device()
    made.add("m", 1000)
    observe(made, inter_token_s=0.030, kv_bytes=500)  # 15 ms by the formula
    assert made.predicted_s("m", NOW_S + 1000) == pytest.approx(0.040, rel=0.01)


def test_one_odd_report_among_many_moves_little() -> None:
    made = device()
    made.add("m", 500)
    observe(made, inter_token_s=0.030, kv_bytes=500)
    observe(made, inter_token_s=0.060, kv_bytes=500, times=1)
    assert made.predicted_s("m", NOW_S + 1000) == pytest.approx(0.033, rel=0.01)


def test_neighbours_turns_do_not_make_prompts_dear() -> None:
    made = device()
    made.started(facts("o"))
    for number, others in enumerate([(), ("n",), ("n", "o")] * 20):
        for name in ("n", "o"):
            step_s = 0.01 if name in others else None
            made.reported(EngineReport(name, NOW_S + number, EngineState.READY, inter_token_s=step_s))
        speed = 4000.0 / (1 + len(others))  # by the clock
        made.reported(EngineReport("m", NOW_S + number, EngineState.READY, prefill_tokens_per_s=speed))
    assert made.prefill_s("m", 4000) == pytest.approx(1.0, rel=0.01)


def test_an_engine_that_is_not_heard_any_more_takes_no_turns() -> None:
    made = device()
    made.add("m", 500)
    made.reported(EngineReport("n", NOW_S - 60, EngineState.READY, inter_token_s=0.05, prefill_tokens_per_s=1000.0))
    for number in range(200):
        at_s = NOW_S + number
        seen = EngineReport(
            "m", at_s, EngineState.READY, inter_token_s=0.03, step_kv_bytes=500, prefill_tokens_per_s=4000.0
        )
        made.reported(seen)
    assert made.prefill_s("m", 4000) == pytest.approx(1.0)
    assert made.predicted_s("m", NOW_S + 1000) == pytest.approx(0.03, rel=0.01)


def test_waits_that_some_reports_hold_make_prompts_little_dearer() -> None:
    made = device()
    for number in range(60):
        speed = 4000.0 if number % 2 else 2000.0
        made.reported(EngineReport("m", NOW_S + number, EngineState.READY, prefill_tokens_per_s=speed))
    assert made.prefill_s("m", 4000) == pytest.approx(1.0, rel=0.25)


def test_a_rate_that_compiling_kernels_spoiled_is_forgotten_in_half_a_minute_of_short_prompts() -> None:
    """Seen on a GPU: 3,600 tokens a second were believed for minutes, where short prompts ran at 22,000."""
    made = device()
    for number in range(30):
        speed = 3600.0 if number == 0 else 22_000.0
        made.reported(
            EngineReport(
                "m",
                NOW_S + number,
                EngineState.READY,
                prefill_tokens_per_s=speed,
                prefill_tokens=1480,
                prefill_prompts=8,
            )
        )
    assert made.prefill_s("m", 22_000) == pytest.approx(1.0, rel=0.25)


def test_prompts_that_were_cached_say_nothing_of_the_prefill_rate() -> None:
    made = device()

    def report(speed: float, tokens: int, prompts: int, times: int = 1) -> None:
        for _ in range(times):
            seen = EngineReport(
                "m",
                NOW_S,
                EngineState.READY,
                prefill_tokens_per_s=speed,
                prefill_tokens=tokens,
                prefill_prompts=prompts,
            )
            made.reported(seen)

    report(20.0, tokens=4, prompts=4)  # of each the last token was read, in 50 ms
    assert made.prefill_s("m", 4000) == 0.0, "nothing is known yet"
    report(4000.0, tokens=2000, prompts=1)
    report(20.0, tokens=4, prompts=4, times=300)
    report(600.0, tokens=900, prompts=30, times=30)
    assert made.prefill_s("m", 4000) == pytest.approx(1.0, rel=0.1)


def test_no_observation_makes_a_step_faster_than_its_bytes_allow() -> None:
    made = device()
    made.add("m", 500)
    observe(made, inter_token_s=0.001, kv_bytes=500)
    assert made.predicted_s("m", NOW_S + 1000) == pytest.approx(0.015)


def test_prompts_slow_decoding_by_their_part_of_the_time_and_are_forgotten() -> None:
    made = device()
    made.add("m", 500)
    made.prefill("m", DUTY_S / 2, NOW_S)
    assert made.predicted_s("m", NOW_S) == pytest.approx(0.030)
    assert made.predicted_s("m", NOW_S + 100) == pytest.approx(0.015)


def test_first_tokens_wait_for_the_prompts_before_them() -> None:
    made = StepTimeModel(
        SchedulerSettings({"m": ModelTargets(first_token_s_max=1.0)}, bandwidth_bytes_per_s={CPU: BANDWIDTH}), CPU
    )
    made.started(facts("m"))
    made.prefill("m", 0.7, NOW_S)
    assert made.breaks("m", 100, prefill_s=0.2, now_s=NOW_S) is None
    broken = made.breaks("m", 100, prefill_s=0.4, now_s=NOW_S)
    assert broken is not None
    assert broken[0] is Reason.FIRST_TOKEN
    assert made.breaks("m", 100, prefill_s=0.4, now_s=NOW_S + 0.2) is None, "the backlog is worked off"
    made.started(facts("n", weight_bytes=0))
    made.add("n", 100)
    broken = made.breaks("m", 100, prefill_s=0.2, now_s=NOW_S + 0.2)
    assert broken is not None, "a neighbour's steps come between"


def test_without_a_measured_bandwidth_nothing_is_refused() -> None:
    made = StepTimeModel(SchedulerSettings(targets={"m": ModelTargets(inter_token_ms_max=0.001)}), CPU)
    made.started(facts("m"))
    assert made.breaks("m", 10**9, 100.0, NOW_S) is None


H200 = 4.017e12
# Seen on an H200 with KV planes: weights, layers, and ms a token alone at 4 and at 8 bits.
SHAPES = {"3b": (2.75e9, 36, 3.45, 3.80), "7b": (5.57e9, 28, 3.52, 3.92), "32b": (19.5e9, 64, 11.46, 12.61)}
SIDE_BY_SIDE = [
    (4, {"3b": 5.66, "7b": 4.56}),
    (4, {"7b": 7.10, "32b": 15.14}),
    (4, {"3b": 9.99, "7b": 8.51, "32b": 18.05}),
    (4, {"7b": 5.55, "7b'": 5.37}),
    (4, {"7b": 10.14, "7b'": 10.17, '7b"': 10.23, "7b*": 10.06}),
    (4, {"3b": 13.30, "7b": 10.78, "7b'": 10.71, "32b": 22.89}),
    (8, {"3b": 6.14, "7b": 4.92}),
    (8, {"7b": 7.48, "32b": 16.47}),
    (8, {"3b": 10.70, "7b": 8.45, "32b": 18.97}),
    (8, {"3b": 13.41, "7b": 10.44, "7b'": 10.76, "32b": 23.53}),
]


class TestInSpace:
    """Kernels run side by side, layer by layer: nobody is faster than alone, and neighbours cost their layers' work."""

    @pytest.fixture
    def card(self) -> StepTimeModel:
        """Two models whose layer is 10 ms of work, and one of 100 ms; the gap is nothing beside that."""
        targets = {"m": ModelTargets(inter_token_ms_max=25.0, first_token_s_max=1.0), "n": ModelTargets(30.0)}
        made = StepTimeModel(SchedulerSettings(targets=targets, bandwidth_bytes_per_s={gpu(0): BANDWIDTH}), gpu(0))
        for name, size in (("m", 1000), ("n", 1000), ("o", 10_000)):
            made.started(facts(name, weight_bytes=size, layers=1, device=gpu(0), sharing=Sharing.SPACE))
            made.loads[name].correction = 1.0
        made.add("m", 0)
        return made

    @pytest.mark.parametrize(("bits", "seen_ms"), SIDE_BY_SIDE)
    def test_the_measured_table(self, bits: int, seen_ms: dict[str, float]) -> None:
        """With corrections of each model alone: 6% off in the mean."""
        made = StepTimeModel(SchedulerSettings(bandwidth_bytes_per_s={gpu(0): H200}), gpu(0))
        for name in seen_ms:
            size, layers, *alone_ms = SHAPES[name.rstrip("'*\"")]
            made.started(facts(name, weight_bytes=int(size), layers=layers, device=gpu(0), sharing=Sharing.SPACE))
            work_s = alone_ms[bits == 8] / 1000 - layers * 48e-6
            made.loads[name].correction = work_s * H200 / size
            made.add(name, 0)
        for name, measured_ms in seen_ms.items():
            assert 1000 * (made.predicted_s(name, NOW_S) or 0.0) == pytest.approx(measured_ms, rel=0.13)

    def test_a_large_neighbour_costs_more_than_a_small_one(self, card: StepTimeModel) -> None:
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.010, rel=0.01)
        card.add("n", 0)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.020, rel=0.01)
        card.remove("n", 0)
        card.add("o", 0)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.110, rel=0.01)
        assert card.predicted_s("o", NOW_S) == pytest.approx(0.110, rel=0.01), "it waits for m in each layer"

    def test_in_its_gaps_an_engine_costs_nothing(self) -> None:
        made = StepTimeModel(SchedulerSettings(bandwidth_bytes_per_s={gpu(0): BANDWIDTH}), gpu(0))
        for name in ("m", "n"):
            made.started(facts(name, weight_bytes=1, layers=1, device=gpu(0), sharing=Sharing.SPACE))
            made.loads[name].correction = 1.0
            made.add(name, 0)
        alone_s, step_s = 10e-6 + 48e-6, made.predicted_s("m", NOW_S)
        assert step_s is not None
        assert alone_s < step_s < 1.06 * alone_s, "10 us of a neighbour that is idle 48 of 68"

    def test_all_together_read_no_more_than_the_bandwidth(self) -> None:
        made = StepTimeModel(SchedulerSettings(bandwidth_bytes_per_s={gpu(0): H200}), gpu(0))
        sizes = {f"m{number}": 10**9 * (1 + number) for number in range(8)}
        for name, size in sizes.items():
            made.started(facts(name, weight_bytes=size, layers=30, device=gpu(0), sharing=Sharing.SPACE))
            made.loads[name].correction = 1.0
            made.add(name, 0)
        assert sum(size / (made.predicted_s(name, NOW_S) or 0.0) for name, size in sizes.items()) <= H200

    def test_a_models_first_chat_may_break_a_neighbours_target(self, card: StepTimeModel) -> None:
        broken = card.breaks("o", 100, 0.0, NOW_S)
        assert broken is not None
        assert broken[:2] == (Reason.BANDWIDTH, "m")
        card.remove("m", 0)
        assert card.breaks("o", 100, 0.0, NOW_S) is None

    def test_chats_of_a_neighbour_slow_a_model_by_what_they_read(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        assert card.breaks("n", 400, 0.0, NOW_S) is None
        broken = card.breaks("n", 600, 0.0, NOW_S)
        assert broken is not None
        assert broken[1] == "m", "20 ms and 6 are above 25; its own target is 30"

    def test_prompts_pause_their_own_chats_and_those_of_others_in_part(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        card.prefill("n", DUTY_S / 4, NOW_S)
        assert card.predicted_s("n", NOW_S) == pytest.approx(0.020 / (1 - 0.25), rel=0.01)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.020 / (1 - 0.75 * 0.25), rel=0.01)

    def test_prompts_are_slowed_as_steps_are(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        card.prefill("n", 0.25, NOW_S)
        card.loads["m"].inter_token_s_max = card.loads["n"].inter_token_s_max = None
        assert card.breaks("m", 1, prefill_s=0.2, now_s=NOW_S) is None, "2 x 0.45 s"
        broken = card.breaks("m", 1, prefill_s=0.3, now_s=NOW_S)
        assert broken is not None
        assert broken[0] is Reason.FIRST_TOKEN

    def test_a_correction_that_was_learned_beside_others_holds_alone(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        for number in range(200):
            for name in ("m", "n"):
                card.reported(EngineReport(name, NOW_S + number, EngineState.READY, inter_token_s=0.030))
        card.remove("n", 0)
        assert card.predicted_s("m", NOW_S + 300) == pytest.approx(0.015, rel=0.1)

    def test_who_is_known_well_is_not_blamed_for_a_newcomer(self, card: StepTimeModel) -> None:
        for number in range(100):
            card.reported(EngineReport("m", NOW_S + number, EngineState.READY, inter_token_s=0.010))
        card.add("n", 0)
        for number in range(100, 140):
            for name in ("m", "n"):  # n's work is 20 ms, not 10
                card.reported(EngineReport(name, NOW_S + number, EngineState.READY, inter_token_s=0.030))
        assert card.loads["m"].correction == pytest.approx(1.0, rel=0.2)
        assert card.loads["n"].correction == pytest.approx(2.0, rel=0.2)

    def test_one_hiccup_moves_a_correction_little(self, card: StepTimeModel) -> None:
        for number in range(100):
            card.reported(EngineReport("m", NOW_S + number, EngineState.READY, inter_token_s=0.010))
        card.reported(EngineReport("m", NOW_S + 100, EngineState.READY, inter_token_s=1.0))
        assert card.predicted_s("m", NOW_S + 100) == pytest.approx(0.010, rel=0.1)

    def test_one_engine_that_takes_turns_makes_all_wait(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        modes = [card.sharing]
        card.started(facts("n", device=gpu(0)))
        modes.append(card.sharing)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.020)
        card.leave("n")
        assert [*modes, card.sharing] == [Sharing.SPACE, Sharing.TURNS, Sharing.SPACE]
