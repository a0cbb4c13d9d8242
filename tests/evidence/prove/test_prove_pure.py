"""The parts of a proof that need no engine: search, arithmetic, distances, and what the report says of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evidence.prove.answer import Timed
from services.evidence.prove.bisection import Capacity, search
from services.evidence.prove.capacity import good_share
from services.evidence.prove.claims import ARTICLE, claims, lede
from services.evidence.prove.distances import distance, divergence, likeliest, surprise
from services.evidence.prove.memory import Sizes, held, qwq_kv_bytes, qwq_tokens_for_saving
from services.evidence.prove.page import as_json, render, write
from services.evidence.prove.quality import QuestionScores, fidelity, question_order, support_text
from services.evidence.prove.results import Fidelity, LatencyTargets, MeasuredAtBits, Results, Settings, Share
from services.evidence.prove.speed import Bursts

GIB = 2**30


@given(st.integers(0, 300), st.integers(0, 300))
async def test_the_search_finds_the_edge(edge: int, limit: int) -> None:
    tried: list[int] = []

    async def holds(number: int) -> bool:
        tried.append(number)
        return number <= edge

    found = await search(holds, limit, tries=1)
    assert found.holds == min(edge, limit)
    assert found.fails == (edge + 1 if edge < limit else None)
    assert len(tried) <= 2 * math.log2(limit + 2) + 1, "doubling and halving, not counting"
    assert all(1 <= n <= limit for n in tried)


async def test_a_failure_by_chance_is_tried_again() -> None:
    flaky = {4: [False, True], 6: [False, False]}

    async def holds(number: int) -> bool:
        return flaky[number].pop(0) if flaky.get(number) else number < 6

    found = await search(holds, 8, tries=2)
    assert (found.holds, found.fails) == (5, 6)
    assert [(t.number, t.held) for t in found.trials].count((4, False)) == 1


QWQ = Sizes(
    weight_bytes=19 * 10**9,
    overhead_bytes=10**9,
    per_token={16: 262_144, 8: 139_264, 4: 73_728},
    context_tokens=2048,
    chats=1,
)


def test_the_cards_arithmetic() -> None:
    """QwQ-32B with 20 GB fixed on 24 GB: 4 GB are left."""
    at16, at4 = held(QWQ, 16, 24 * 10**9), held(QWQ, 4, 24 * 10**9)
    assert (at16.context_tokens, at4.context_tokens) == (4 * 10**9 // 262_144, 4 * 10**9 // 73_728)
    assert (at16.sessions, at4.sessions) == (7, 26)
    assert at16.models == at4.models == 1
    assert at4.model_bytes == 20 * 10**9 + 2048 * 73_728
    assert held(QWQ, 16, 10**9).context_tokens == 0, "a card that does not even hold the weights"


def test_the_articles_saving_belongs_to_eight_thousand_tokens() -> None:
    tokens = qwq_tokens_for_saving(1.5e9, 18 / 32)
    assert 7_900 < tokens < 8_000
    assert qwq_kv_bytes(int(tokens), 2) - qwq_kv_bytes(int(tokens), 18 / 32) == pytest.approx(1.5e9, rel=1e-3)


def _logs(*shares: float) -> dict[int, float]:
    return {token: math.log(share) for token, share in enumerate(shares)}


def test_divergence_is_zero_for_the_same_and_never_more_than_the_true_one() -> None:
    full, other = _logs(0.5, 0.3, 0.15, 0.05), _logs(0.4, 0.2, 0.25, 0.15)
    true = sum(math.exp(p) * (p - other[t]) for t, p in full.items())
    assert divergence(full, full) == 0
    assert divergence(full, other) == pytest.approx(true, abs=1e-9)
    seen = {t: full[t] for t in (0, 1)}
    assert 0 < divergence(seen, other) <= true
    assert divergence(_logs(0.9), {7: math.log(0.9)}) == 0, "nothing in common says nothing"


def test_surprise_of_a_token_that_is_not_listed() -> None:
    listed = _logs(0.6, 0.3)
    assert surprise(listed, 1, 12) == pytest.approx(-math.log(0.3))
    assert surprise(listed, 9, 12) == pytest.approx(-math.log(0.1 / 10))
    assert likeliest(listed) == 0


def test_fidelity_is_over_the_same_positions() -> None:
    texts = [[0, 1, 0, 1]]
    base = {(0, 1): _logs(0.5, 0.5), (0, 2): _logs(0.5, 0.5), (0, 3): _logs(0.5, 0.5)}
    worse = {(0, 1): _logs(0.75, 0.25), (0, 3): _logs(0.75, 0.25)}
    assert fidelity(base, base, texts, 2).perplexity == pytest.approx(2)
    found = fidelity(base, worse, texts, 2)
    assert found.positions == 2
    assert found.perplexity == pytest.approx(4)
    assert found.kl_nats == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    with pytest.raises(ValueError, match="no position"):
        fidelity(base, {}, texts, 2)


def test_style_tells_a_poem_from_an_apology() -> None:
    apology = ["I am sorry that your kettle leaks. We refund it today.", "I am sorry for the delay; we refund you."]
    again = ["I am sorry that your toaster broke. We refund it today.", "I am sorry for the wait; we refund you."]
    poem = ["O moon above the silent hill, thy silver lingers, soft and still."]
    assert distance(apology, apology) == pytest.approx(0, abs=1e-9)
    assert distance(apology, again) < 0.5 * distance(apology, poem)
    assert distance(apology, []) == 1


def test_answers_are_checked_and_compared() -> None:
    asked = question_order()[:50]
    right = QuestionScores({q.id: Timed(q.answer) for q in asked})
    half = QuestionScores({q.id: Timed(q.answer if n % 2 else "no idea") for n, q in enumerate(asked)})
    assert right.share("maths").value == right.share("logic").value == 1
    assert right.share("maths").total + right.share("logic").total == 50
    assert right.share("maths").total >= 15, "the order mixes both kinds"
    assert half.same_as(right) == Share(25, 50)


def test_the_texts_do_not_overlap() -> None:
    one, two = support_text(2)
    assert min(len(one), len(two)) > 4000
    assert not set(one.splitlines()) & set(two.splitlines())


def test_a_chat_that_never_spoke_is_not_good() -> None:
    good = Timed(first_s=1.0, gaps_s=[0.1, 0.2])
    slow = Timed(first_s=1.0, gaps_s=[0.1, 0.9])
    late = Timed(first_s=9.0, gaps_s=[0.1])
    assert good_share([good, slow, late, Timed()], LatencyTargets(5, 0.25)) == 0.25
    assert good_share([], LatencyTargets()) == 0


def _results(**changed: object) -> Results:
    results = Results(
        model="m<1>", engine="llamacpp", weights="w.gguf", machine="a machine", started="2026-01-01T00:00:00+00:00",
        card_bytes=24 * GIB, card_models=2, card_said="--card", reserve=0.05, targets=LatencyTargets(),
        settings=Settings(), sizes=QWQ,
    )  # fmt: skip
    speed = {16: 20.0, 8: 19.0, 4: 24.0}
    for bits in (16, 8, 4):
        results.at[bits] = MeasuredAtBits(
            bits=bits,
            held=held(replace(QWQ, weight_bytes=GIB, chats=16), bits, 24 * GIB),
            decode_tokens_per_s=speed[bits],
            models=Capacity(20 // bits, 9, 12, ()),
            fidelity=Fidelity(400, 20.0 + 1 / bits, 0.01, 0.9),
            maths=Share(60 + bits, 100),
            logic=Share(50, 80),
            same_answers=Share(9, 10),
            style_distance=None if bits == 16 else 0.2,
            change_s=0.7,
        )
    results.style_yardstick = 0.21
    for name, value in changed.items():
        setattr(results, name, value)
    return results


def test_every_claim_has_its_row_and_its_footnotes() -> None:
    rows = claims(_results())
    assert [row.number for row in rows] == [f"A{n}" for n in range(1, 16)] == list(ARTICLE)
    found = {row.number: row for row in rows}
    assert found["A7"].ours == "1.20x"
    assert found["A7"].verdict == "better than the article's 0.8x"
    assert "style: no change to be seen" in found["A6"].verdict
    assert found["A5"].ours == "76.0% vs 64.0% (n=100)"
    assert "no difference beyond chance" in found["A5"].verdict
    assert all(row.methods for row in rows if any(c.isdigit() for c in row.ours) and row.number != "A15")


def test_a_difference_beyond_chance_is_called_one() -> None:
    results = _results()
    results.at[4].maths = Share(30, 100)
    assert claims(results)[4].verdict == "a difference beyond chance"


def test_a_model_that_knows_nothing_is_not_called_undamaged() -> None:
    results = _results()
    for at in results.at.values():
        at.maths = Share(2, 100)
    assert "too few" in claims(results)[4].verdict


def test_what_was_missed_stands_first() -> None:
    results = _results()
    results.at[4].decode_tokens_per_s = 15.0
    said = lede(results)
    assert said.startswith("Missed, 4 bits against 16: ")
    assert "decoding speed 0.75x (target 1.0x)" in said.split("Reached")[0]
    assert "longest context 3.56x (target 3.0x)" in said.split("Reached")[1]


def test_a_busy_machine_gets_no_verdict_on_speed() -> None:
    results = _results(foreign_cpu_share=0.4)
    said = lede(results)
    assert "Other work took 40% of this machine's cores" in said
    assert "decoding speed 1.20x" not in said
    assert claims(results)[6].verdict == "the machine was busy: no verdict"


def test_speed_is_that_of_the_least_disturbed_burst() -> None:
    bursts = Bursts()
    bursts.add(Timed(tokens=16, first_s=9.0, gaps_s=[0.05] * 15))
    assert (bursts.first_s, bursts.tokens_per_s) == (9.0, None), "the first burst has the prefill"
    bursts.add(Timed(tokens=16, first_s=0.9, gaps_s=[0.0] * 15))  # bunched by a busy reader
    bursts.add(Timed(tokens=16, first_s=0.05, gaps_s=[0.05] * 15))
    bursts.add(Timed(tokens=16, first_s=0.05, gaps_s=[0.4] * 15))
    bursts.add(Timed(tokens=3, first_s=0.001, gaps_s=[0.001] * 2))  # too short to say anything
    assert bursts.tokens_per_s == pytest.approx(20)


def test_what_was_not_measured_is_said() -> None:
    results = _results()
    for at in results.at.values():
        at.decode_tokens_per_s = at.fidelity = at.maths = at.models = None
    results.notes = ["Left out, the time was over: models."]
    assert "Not measured: decoding speed." in lede(results)
    text = render(results, "prove.md")
    assert "Left out, the time was over: models." in text
    assert "| A7 | decode speed with 4-bit KV | 0.8x of FP16 | not measured" in text


def test_the_report_in_both_forms() -> None:
    results = _results()
    page, text = render(results, "prove.html"), render(results, "prove.md")
    assert "m&lt;1&gt;" in page
    assert page.count("<svg") == 5
    for row in claims(results):
        assert f"<td>{row.number}</td>" in page
        assert f"| {row.number} |" in text
    notes = {n for n in range(1, 20) if f"[^{n}]:" in text}
    used = {n for n in range(1, 20) if f"[^{n}] " in text or f"[^{n}]\n" in text or f"[^{n}]|" in text}
    assert notes == used, "every footnote is used, and every use has one"
    widths = {line.count("|") for line in text.split("## This machine")[1].splitlines() if line.startswith("|")}
    assert widths == {6}, "both tables have the same number of columns in all rows"


def test_the_readmes_chart_stands_alone(tmp_path: Path) -> None:
    results = _results()
    write(results, tmp_path)
    root = ElementTree.parse(tmp_path / "models.svg").getroot()
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    held = [f"{results.at[bits].held.models}" for bits in (16, 8, 4)]  # type: ignore[union-attr]
    assert texts == [
        "Models on one card of 24 GiB, by KV bits",
        "16 bits",
        held[0],
        "8 bits",
        held[1],
        "4 bits",
        held[2],
    ]


def test_values_as_json_keep_their_ratios() -> None:
    values = as_json(_results())
    assert values["ratios"]["speed"] == pytest.approx(1.2)  # type: ignore[index]
    assert values["at"]["4"]["maths"] == {"hits": 64, "total": 100}  # type: ignore[index]
