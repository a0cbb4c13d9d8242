"""Figures, intervals and charts from made records."""

from __future__ import annotations

import random
import re

import pytest

from services.contracts.scenario import Targets
from services.evidence import charts
from services.evidence.loadtest.figures import MeasuredWindow, counted, fairness_of, figures, is_good
from services.evidence.loadtest.record import ChatRecord, Result
from services.evidence.statistics import jain, quantile, quantile_interval, share_interval
from tests.evidence.loadtest.helpers import scenario


def chat(first: float = 0.5, gap_ms: float = 20, tokens: int = 11, **changed: object) -> ChatRecord:
    """A chat meant for second 10, sent a second later, whose first piece came `first` after it was meant."""
    record = ChatRecord("acme", "s", 0, "en", "support", 10.0, 11.0, 11.1, 10 + first, 12.0, Result.OK)
    record.gaps_ms = [gap_ms] * (tokens - 1)
    record.pieces = record.completion_tokens = tokens
    for name, value in changed.items():
        setattr(record, name, value)
    return record


@pytest.mark.parametrize(
    ("record", "good"),
    [
        (chat(), True),
        (chat(first=2.1), False),
        (chat(gap_ms=210), False),
        (chat(result=Result.BROKEN), False),
        (chat(result=Result.REFUSED, first_s=None, gaps_ms=[]), False),
        (chat(gaps_ms=[5.0] * 9 + [900.0]), False),
        (chat(tokens=1), True),
    ],
)
def test_good_means_every_target(record: ChatRecord, good: bool) -> None:
    assert is_good(record, Targets(first_token_s=2, inter_token_s=0.2, stall_s=0.8)) is good


def test_figures_count_what_a_user_got() -> None:
    chats = [
        chat(),
        chat(first=4),
        chat(result=Result.ABANDONED),
        chat(result=Result.REFUSED, first_s=None, gaps_ms=[], pieces=0, completion_tokens=None, reason="429 full"),
    ]
    found = figures(chats, Targets(), MeasuredWindow(8, 18))
    assert found.goodput_chats_per_s == 0.1
    assert found.good_share == pytest.approx(1 / 3)
    assert found.reasons == {"429 full": 1}
    assert (found.tokens_per_s, found.good_tokens_per_s) == (3.3, 1.1)
    assert found.client_lag.p50 == 1.0
    assert found.inter_token.p50 == pytest.approx(0.02)


def test_what_comes_after_the_load_makes_no_server_faster() -> None:
    """Eleven tokens from 10.5 s on, 100 ms apart: five of them come before 11 s."""
    found = figures([chat(gap_ms=100)], Targets(), MeasuredWindow(9, 10.95))
    assert found.tokens_per_s == pytest.approx(5 / 1.95)
    assert counted([chat()], MeasuredWindow(0, 10)) == counted([chat()], MeasuredWindow(10.1, 20)) == []


def test_inter_token_counts_tokens_not_pieces() -> None:
    """Ten pieces that hold 37 tokens: 9 gaps of 20 ms over 36 steps."""
    assert chat(tokens=10, completion_tokens=37).inter_token_s == pytest.approx(9 * 0.02 / 36)


def test_quantiles_are_values_that_were_seen() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [quantile(values, q) for q in (0.25, 0.5, 0.51, 0.99, 1.0)] == [1, 2, 3, 4, 4]


def test_fairness_weighs_and_counts_the_starved() -> None:
    assert jain([1, 1, 1]) == pytest.approx(1)
    assert jain([0, 0]) is None
    plan = scenario("http://127.0.0.1:9/v1", {"weight": 2}, {"weight": 1})
    served = {
        name: figures([chat(tokens=n)], Targets(), MeasuredWindow(10, 11)) for name, n in (("t0", 20), ("t1", 10))
    }
    assert fairness_of(plan, served) == pytest.approx(1)
    assert fairness_of(plan, {"t0": served["t0"]}) == pytest.approx(0.5)


def test_quantile_intervals_cover_the_truth() -> None:
    rng = random.Random(4)
    hits = 0
    for _ in range(400):
        found = quantile_interval([rng.random() for _ in range(200)], 0.9)
        assert found is not None
        hits += found[0] <= 0.9 <= found[2]
    assert hits / 400 > 0.92
    assert quantile_interval([1.0] * 20, 0.99) is None, "20 values say nothing about the 99th of 100"


def test_share_intervals_hold_at_the_ends() -> None:
    assert share_interval(0, 0) is None
    none = share_interval(0, 20)
    assert none is not None
    assert none[0] == pytest.approx(0, abs=1e-12)
    assert 0.1 < none[2] < 0.2


@pytest.mark.parametrize("highest", [1e-7, 0.013, 0.99, 1, 3, 7.2, 99, 1e9])
def test_ticks_are_round_and_cover(highest: float) -> None:
    found = charts.ticks(highest)
    assert found[0] == 0
    assert found[-1] >= highest * 0.999
    assert 3 <= len(found) <= 7


def test_charts_stay_inside_and_escape() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 3.0), (3.0, 2.5)]
    lines = [charts.Series("a <b>", points), charts.Series("c", [(0.0, 0.0)])]
    drawn = charts.line_chart("T & U", lines, "x")
    assert "a &lt;b&gt;" in drawn
    assert "T &amp; U" in drawn
    pairs = re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]*)"', drawn)))
    assert len(pairs) == 2, "the gap parts the line: one point alone, then two joined"
    assert all(0 <= float(x) <= charts.WIDTH and 0 <= float(y) <= charts.HEIGHT for x, y in pairs)


def test_empty_charts_say_so() -> None:
    assert "no data" in charts.line_chart("t", [charts.Series("a", [])], "x")
    assert "no data" in charts.distribution("t", [("a", [])], "x", charts.duration)
    assert "<svg" in charts.bar_chart("t", [])


def test_words_for_numbers() -> None:
    assert [charts.duration(s) for s in (0, 0.00085, 0.012, 1.4, 720)] == ["0", "850 µs", "12 ms", "1.4 s", "12 min"]
    assert [charts.plain(v) for v in (0.25, 12, 1500, 3e6)] == ["0.25", "12", "1.5k", "3M"]
    assert [charts.size(b) for b in (512, 1536, 3 * 2**30)] == ["512 B", "1.5 KiB", "3 GiB"]
