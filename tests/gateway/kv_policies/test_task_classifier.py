"""The classifier on labelled messages in four languages. Accuracies are floors; docs/scheduling.md has the figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gateway.kv_policies import policy
from gateway.kv_policies.task_classifier import EDGE_CHARS, classify
from services.contracts.chats import Task

DATA = Path(__file__).parent / "data"


def messages(part: str) -> list[tuple[Task, str, str]]:
    rows = (DATA / f"messages_{part}.tsv").read_text(encoding="utf-8").splitlines()
    split = [row.split("\t") for row in rows if not row.startswith("#")]
    return [(Task(task), language, text) for task, language, text in split]


def test_there_are_enough_messages_of_every_kind_and_none_is_in_both_parts() -> None:
    tuning, held_out = messages("tuning"), messages("held_out")
    kinds = Counter((task, language) for task, language, _ in tuning + held_out)
    assert len(tuning) + len(held_out) >= 300
    assert len(kinds) == len(Task) * 4
    assert min(kinds.values()) >= 10
    assert not {text for _, _, text in tuning} & {text for _, _, text in held_out}


@pytest.mark.parametrize(("part", "floor"), [("tuning", 0.95), ("held_out", 0.6)])
def test_accuracy(part: str, floor: float) -> None:
    rows = messages(part)
    right = sum(classify(text)[0] is task for task, _, text in rows)
    assert right / len(rows) >= floor


@pytest.mark.parametrize("part", ["tuning", "held_out"])
def test_figures_are_hardly_ever_sent_to_4_bits(part: str) -> None:
    """What a wrong class costs is precision: maths, logic, code and facts read as tone and kept at 4 bits."""
    auto = policy("auto")
    exact = [(task, text) for task, _, text in messages(part) if auto.choose(task, (4, 8), 0.0).floor == 8]
    lowered = [text for _, text in exact if auto.choose(classify(text)[0], (4, 8), 0.0).wanted == 4]
    assert len(lowered) / len(exact) <= 0.03


@pytest.mark.parametrize("part", ["tuning", "held_out"])
def test_a_sure_answer_is_a_better_one(part: str) -> None:
    sure = [classify(text)[0] is task for task, _, text in messages(part) if classify(text)[1] >= 0.5]
    assert len(sure) >= 40
    assert sum(sure) / len(sure) >= 0.75


def test_what_says_nothing_is_support_without_confidence() -> None:
    assert classify("") == (Task.SUPPORT, 0.0, ())
    assert classify("hm") == (Task.SUPPORT, 0.0, ())


def test_words_inside_of_other_words_are_found_in_japanese_only() -> None:
    assert classify("pandasで集計して")[0] is Task.CODE
    assert not any("rest" in word for word in classify("Are the restaurant's interests insured at all?")[2])


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Mira is taller than Ole and Ole is taller than Kai: is Mira the tallest?", Task.LOGIC),
        ("Kira ist älter als Jan, Jan ist älter als Lea. Ist Kira die älteste?", Task.LOGIC),
        ("Todos los socios votan. Luis no vota. ¿Es socio?", Task.LOGIC),
        ("太郎は花子より高く、花子は次郎より高い。一番高いのは?", Task.LOGIC),
        ("my_list comes back empty from getItems, any idea?", Task.CODE),
        ("Wie ändere ich meine Adresse?", Task.SUPPORT),
    ],
)
def test_how_a_message_is_built_tells_its_task(text: str, task: Task) -> None:
    assert classify(text)[0] is task


def test_the_answer_says_what_spoke_for_it() -> None:
    task, confidence, why = classify("Please calculate the average of 3, 4 and 5")
    assert task is Task.MATHS
    assert confidence > 0.5
    assert any("average" in word for word in why)


def test_only_the_edges_of_a_long_text_are_read() -> None:
    filler = "blah " * EDGE_CHARS
    assert classify(f"{filler} unacceptable, terrible service {filler}")[0] is Task.SUPPORT
    assert classify(f"{filler} unacceptable, terrible service")[0] is Task.COMPLAINT
