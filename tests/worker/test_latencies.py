"""What the worker tells the scheduler of an engine's pace."""

from __future__ import annotations

from services.contracts.engines import EngineReport, EngineState
from services.worker.engine_supervisor import LatencyWindow

NOW_S = 1000.0


def report(prefill_tokens_per_s: float | None = None) -> EngineReport:
    return EngineReport("m", NOW_S, EngineState.READY, prefill_tokens_per_s=prefill_tokens_per_s)


def test_prompts_from_a_cache_do_not_pass_for_fast_prefill_where_the_engine_knows() -> None:
    meter = LatencyWindow()
    meter.first("chat", NOW_S, waited_s=0.1, prompt_tokens=4000)
    assert meter.add_to(report(), 1).prefill_tokens_per_s == 40_000, "nobody knows better"
    assert meter.add_to(report(6000.0), 1).prefill_tokens_per_s == 6000.0
    assert meter.add_to(report(), 1).prefill_tokens_per_s is None
