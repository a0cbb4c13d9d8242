"""Test sets as people write them, and how answers are judged."""

from __future__ import annotations

import time

import pytest

from services.contracts.bot_tests import (
    BadTestSet,
    BotQuestion,
    TrialAnswer,
    TrialCall,
    TrialSource,
    as_csv,
    as_yaml,
    judged,
    parse_csv,
    parse_yaml,
    patterns_of,
)
from services.jobs.bot_test import PATTERNS_S_MAX, found_in

WRITTEN = """
- ask: Do you ship to Norway?
  must: [not yet, '/norw(ay|egen)/']
  must_not: free of charge
  source: Shipping
- id: order
  ask: [Hello, 注文4711はどこですか]
  action: order_status
- ask: Do you sell cars?
  declined: true
"""


def test_a_test_set_is_the_same_by_yaml_and_csv() -> None:
    found = parse_yaml(WRITTEN)
    assert [question.id for question in found.questions] == ["q1", "order", "q3"]
    assert parse_yaml(as_yaml(found)) == found
    assert parse_csv(as_csv(found)) == found
    assert parse_csv("ask,must\r\nHow long?,3 days\r\n").questions[0].must == ("3 days",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {ask: Hi}", "question 1: it expects nothing: name must, must_not, source, action or declined"),
        ("- {ask: Hi, must: '/(/'}", "question 1: /(/ is not a regular expression"),
        ("- {ask: Hi, must: x}\n- {ask: Ho, musst: x}", "question 2, musst: Extra inputs are not permitted"),
        ("- {id: a, ask: Hi, must: x}\n- {id: a, ask: Ho, must: x}", "ids must differ; given twice: a"),
        ("Hello", "it must be a list of questions"),
        ("- &a {ask: Hi, must: x}\n- *a", "aliases are not supported"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, why: str) -> None:
    with pytest.raises(BadTestSet, match=why.replace("(", r"\(")):
        parse_yaml(text)


def test_a_table_with_an_unknown_column_is_refused() -> None:
    with pytest.raises(BadTestSet, match="the columns are id, ask, must, must_not, source, action, declined, not mus"):
        parse_csv("ask,mus\nHi,x\n")


def wrong(answer: TrialAnswer, **expected: object) -> list[str]:
    question = BotQuestion.model_validate({"id": "q", "ask": "?", **expected})
    return judged(question, answer, dict.fromkeys(patterns_of(question), True))


ANSWER = TrialAnswer(
    text="Not\n yet: STRASSE",
    finish="stop",
    kv_bits=8,
    sources=(TrialSource(title="Shipping and returns", url="https://shop.example/s"),),
    calls=(TrialCall(action="order_status", arguments={}, status="ok"),),
)


def test_answers_are_judged_whatever_case_and_spaces() -> None:
    good = {"must": ["not yet", "straße", "/x/"], "source": "shipping", "action": "order_status", "declined": False}
    assert wrong(ANSWER, **good) == []
    assert wrong(ANSWER, source="shop.example/s") == []
    assert wrong(ANSWER, must="now") == ["missing: now"]
    assert wrong(ANSWER, must_not=["YET", "/x/"]) == ["must not be there: YET", "must not be there: /x/"]
    assert wrong(ANSWER, source="Prices") == ["source missing: Prices (there: Shipping and returns)"]
    assert wrong(ANSWER, action="none") == ["no action was expected, but order_status"]
    assert wrong(ANSWER, action="cancel") == ["action missing: cancel (there: order_status)"]
    assert wrong(ANSWER, declined=True) == ["it should have declined"]


async def test_a_pattern_that_would_search_for_ever_is_given_up() -> None:
    assert await found_in("Three to five\nDAYS.", ["five.days", "^days"]) == [True, False]
    began_s = time.monotonic()
    assert await found_in("a" * 4000, ["(a+)+$x"]) == [None]
    assert time.monotonic() - began_s < PATTERNS_S_MAX + 3
