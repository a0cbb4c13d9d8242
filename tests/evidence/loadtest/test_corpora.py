"""The corpora are what they say, and the checker tells right from wrong."""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable

import pytest

from services.contracts.chats import Task
from services.evidence.checker import Question, is_correct
from services.evidence.corpus import dialogues, document, questions

OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def _value(node: ast.AST) -> float:
    match node:
        case ast.Expression(body=body):
            return _value(body)
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand):
            return OPERATORS[type(op)](_value(operand))
        case _:
            raise ValueError(ast.dump(node))


def test_dialogues_are_many_and_varied() -> None:
    found = dialogues()
    assert len(found) >= 200
    assert all(2 <= len(d.turns) <= 8 for d in found)
    assert min(Counter(d.language for d in found).values()) >= 90
    assert {d.task for d in found} == set(Task)
    assert min(Counter(d.task for d in found).values()) >= 10
    assert len({d.id for d in found}) == len({d.topic for d in found}) == len(found)


def test_no_dialogue_is_a_template_of_another() -> None:
    """Customers' first messages share few word triples (English) or runs of six characters (Japanese)."""
    seen: Counter[str] = Counter()
    for dialogue in dialogues():
        text = dialogue.turns[0].user.lower()
        words = text.split()
        runs = (
            {" ".join(words[i : i + 4]) for i in range(len(words) - 3)}
            if dialogue.language == "en"
            else {text[i : i + 8] for i in range(len(text) - 7)}
        )
        seen.update(runs)
    assert max(seen.values()) <= 3, seen.most_common(3)


def test_japanese_is_japanese() -> None:
    for dialogue in dialogues():
        kana = any("\u3040" <= c <= "\u30ff" for t in dialogue.turns for c in t.user)
        assert kana == (dialogue.language == "ja"), dialogue.id


def test_every_proof_gives_its_answer() -> None:
    numbers = [q for q in questions() if q.check == "number"]
    assert len(numbers) >= 100
    for question in numbers:
        assert _value(ast.parse(question.proof, mode="eval")) == pytest.approx(float(question.answer)), question


def test_questions_are_many_and_no_guess_wins() -> None:
    found = questions()
    assert len(found) == len({q.question for q in found}) == 200
    logic = [q for q in found if q.kind == "logic"]
    for check in ("yesno", "choice"):
        answers = Counter(q.answer for q in logic if q.check == check)
        assert max(answers.values()) / answers.total() < 0.6, answers
    assert all(all(f"{letter})" in q.question for letter in "ABCD") for q in logic if q.check == "choice")


NUMBER = Question("n", "en", "maths", "number", "?", "1234.5")
CHOICE = Question("c", "en", "logic", "choice", "?", "C")
YESNO = Question("y", "ja", "logic", "yesno", "?", "no")


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (NUMBER, "1234.5", True),
        (NUMBER, "First 1,000, then 234.5; that is 1,234.50.", True),
        (NUMBER, "1234.5 is near 1200", False),
        (NUMBER, "Answer: 1234.5 euros (3 items)", False),
        (NUMBER, "答えは１２３４.５です", True),
        (NUMBER, "-1234.5", False),
        (NUMBER, "I do not know", False),
        (CHOICE, "C", True),
        (CHOICE, "It can't be A or B. Answer: C) carrot", True),
        (CHOICE, "C, or rather D", False),
        (CHOICE, "Certainly", False),
        (YESNO, "いいえ、割引は受けられません。", True),
        (YESNO, "はい", False),
        (YESNO, "No.", True),
        (YESNO, "Nobody knows", False),
        (YESNO, "", False),
    ],
)
def test_the_checker(question: Question, answer: str, right: bool) -> None:
    assert is_correct(question, answer) is right


def test_a_right_answer_is_never_refused() -> None:
    spoken = {"yes": "はい", "no": "いいえ"}
    for question in questions():
        assert is_correct(question, question.answer), question
        if question.language == "ja":
            assert is_correct(question, f"答えは{spoken.get(question.answer, question.answer)}です。"), question


def test_documents_differ_and_hold_whole_cases() -> None:
    import random

    one, two = (document(random.Random(seed), 5000, "ja") for seed in (1, 2))
    assert one != two
    assert one.startswith("Case 1 (")
    assert len(one) == 5000
