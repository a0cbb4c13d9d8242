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


class TestInSpace:
    """Kernels run side by side: nobody is faster than alone, and a busy neighbour costs a part of a step."""

    @pytest.fixture
    def card(self) -> StepTimeModel:
        targets = {"m": ModelTargets(inter_token_ms_max=25.0, first_token_s_max=1.0), "n": ModelTargets(30.0)}
        made = StepTimeModel(SchedulerSettings(targets=targets, bandwidth_bytes_per_s={gpu(0): BANDWIDTH}), gpu(0))
        for name, size in (("m", 1000), ("n", 1000), ("o", 10_000)):
            made.started(facts(name, weight_bytes=size, device=gpu(0), sharing=Sharing.SPACE))
            made.loads[name].correction = 2.0
        made.add("m", 0)
        return made

    def test_the_measured_table(self) -> None:
        """Qwen2.5-7B's shape on an H200, whose copies move 4.16 TB/s: the correction of one busy model serves all."""
        made = StepTimeModel(SchedulerSettings(bandwidth_bytes_per_s={gpu(0): 4.16e12}), gpu(0))
        names = ["a", "b", "c", "d"]
        for name in names:
            made.started(facts(name, weight_bytes=5_570_000_000, device=gpu(0), sharing=Sharing.SPACE))
            made.loads[name].correction = 3.29e-3 * 4.16e12 / (5.57e9 + 0.07e9)
        for busy, measured_ms in ((1, 3.29), (2, 5.0), (4, 9.0)):
            for name in names[:busy]:
                if not made.loads[name].chats:
                    made.add(name, 70_000_000)
            assert 1000 * (made.predicted_s("a", NOW_S) or 0.0) == pytest.approx(measured_ms, rel=0.04)

    def test_a_large_neighbour_costs_no_more_than_a_small_one(self, card: StepTimeModel) -> None:
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.020)
        card.add("n", 0)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.0314)
        card.remove("n", 0)
        card.add("o", 5000)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.0314)

    def test_engines_that_read_at_full_speed_alone_gain_nothing(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        for load in card.loads.values():
            load.correction = 1.0
        card.configure(card.settings)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.020), "both read all of the bandwidth"

    def test_a_models_first_chat_may_break_a_neighbours_target(self, card: StepTimeModel) -> None:
        broken = card.breaks("o", 100, 0.0, NOW_S)
        assert broken is not None
        assert broken[:2] == (Reason.BANDWIDTH, "m")
        card.remove("m", 0)
        assert card.breaks("o", 100, 0.0, NOW_S) is None

    def test_more_chats_of_a_busy_model_break_its_own_target_alone(self, card: StepTimeModel) -> None:
        assert card.breaks("m", 200, 0.0, NOW_S) is None
        broken = card.breaks("m", 300, 0.0, NOW_S)
        assert broken is not None
        assert broken[1] == "m"
        card.add("o", 0)
        assert card.breaks("o", 50_000, 0.0, NOW_S) is None, "it reads all the time, with more chats or fewer"

    def test_prompts_slow_their_own_models_steps(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        card.prefill("n", DUTY_S / 4, NOW_S)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.0314)
        assert card.predicted_s("n", NOW_S) == pytest.approx(0.0314 / (1 - 1.57 / 4))

    def test_prompts_are_slowed_as_steps_are(self, card: StepTimeModel) -> None:
        card.add("o", 0)
        card.prefill("o", 0.3, NOW_S)
        card.loads["m"].inter_token_s_max = None
        assert card.breaks("m", 0, prefill_s=0.3, now_s=NOW_S) is None, "1.57 x 0.6 s"
        broken = card.breaks("m", 0, prefill_s=0.4, now_s=NOW_S)
        assert broken is not None
        assert broken[0] is Reason.FIRST_TOKEN

    def test_a_correction_that_was_learned_beside_others_holds_alone(self, card: StepTimeModel) -> None:
        for number in range(100):
            for name, step_s in (("m", 0.0471), ("n", 0.0471)):
                card.reported(EngineReport(name, NOW_S + number, EngineState.READY, inter_token_s=step_s))
        assert card.predicted_s("m", NOW_S + 100) == pytest.approx(0.030, rel=0.01)

    def test_one_engine_that_takes_turns_makes_all_wait(self, card: StepTimeModel) -> None:
        card.add("n", 0)
        modes = [card.sharing]
        card.started(facts("n", device=gpu(0)))
        modes.append(card.sharing)
        assert card.predicted_s("m", NOW_S) == pytest.approx(0.040)
        card.leave("n")
        assert [*modes, card.sharing] == [Sharing.SPACE, Sharing.TURNS, Sharing.SPACE]
