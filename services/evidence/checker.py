"""Whether an answer to a maths or logic question is right.

A question says how it is checked:

- `number`: the last number in the answer equals the expected one (1,234.50 = 1234.5, full width too);
- `choice`: the one option the answer commits to, by its letter; the last letter named wins;
- `yesno`: the first yes or no (はい, いいえ) in the answer.

Where an answer has a marker ("Answer: ..."), only what follows its last occurrence is looked at.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

_MARKER = re.compile(r"(?:answer|答え|回答)\s*(?:is|は)?\s*[::]?", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"(?<![A-Za-z])([A-D])(?![A-Za-z'’])")
_YES_NO = re.compile(r"\b(yes|no)\b|(はい|いいえ)", re.IGNORECASE)

_FORMS = {
    ("en", "number"): "Answer with the number only.",
    ("en", "choice"): "Answer with the letter only.",
    ("en", "yesno"): "Answer yes or no only.",
    ("ja", "number"): "数字だけで答えてください。",
    ("ja", "choice"): "記号だけで答えてください。",
    ("ja", "yesno"): "「はい」か「いいえ」だけで答えてください。",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question with a checkable answer. `proof` is arithmetic that gives a number, for the tests."""

    id: str
    language: Literal["en", "ja"]
    kind: Literal["maths", "logic"]
    check: Literal["number", "choice", "yesno"]
    question: str
    answer: str
    proof: str = ""

    @property
    def prompt(self) -> str:
        """The question with the form of answer that the check can read."""
        return f"{self.question}\n{_FORMS[self.language, self.check]}"


def is_correct(question: Question, answer: str) -> bool:
    """Whether `answer` gives the question's expected answer."""
    text = unicodedata.normalize("NFKC", answer)
    if markers := list(_MARKER.finditer(text)):
        text = text[markers[-1].end() :] or text
    match question.check:
        case "number":
            return _last_number(text) == Decimal(question.answer)
        case "choice":
            letters = _LETTER.findall(text)
            return bool(letters) and letters[-1] == question.answer
        case "yesno":
            found = _YES_NO.search(text)
            said = "" if found is None else found.group().lower()
            return {"はい": "yes", "いいえ": "no"}.get(said, said) == question.answer


def _last_number(text: str) -> Decimal | None:
    numbers = _NUMBER.findall(text.replace("−", "-"))
    if not numbers:
        return None
    try:
        return Decimal(numbers[-1].replace(",", ""))
    except InvalidOperation:
        return None
