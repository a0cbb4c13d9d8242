"""The written questions, and the shop's files that they are about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from services.contracts.knowledge import Passage
from services.knowledge.passages import pairs_of

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = {"en": "faq-shop.md", "de": "faq-shop.de.md", "ja": "faq-shop.ja.md"}
DEMO_PAIRS, DEMO_EACH = 10, 2  # asked of the whole bot: so many pairs a language, so many paraphrases of each


class Question(NamedTuple):
    """What is asked, and the pair that answers it."""

    text: str
    language: str
    pair: int


def pairs(language: str) -> list[Passage]:
    """The shop's FAQ in one language."""
    file = FILES[language]
    return pairs_of((EXAMPLES / file).read_text(encoding="utf-8"), title="Alder & Ash", source=file)


def passages() -> list[Passage]:
    """The FAQ in all languages."""
    return [pair for language in FILES for pair in pairs(language)]


def paraphrases() -> Iterator[Question]:
    """All 120."""
    written = _written()
    for language in FILES:
        for number, texts in written[language].items():
            yield from (Question(text, language, number) for text in texts)


def demo_questions() -> Iterator[Question]:
    """60 of them."""
    written = _written()
    for language in FILES:
        for number in range(DEMO_PAIRS):
            yield from (Question(text, language, number) for text in written[language][number][:DEMO_EACH])


def unknown() -> list[str]:
    """40 questions that the shop's files do not answer."""
    return list(_written()["unknown"])


def _written() -> dict:  # type: ignore[type-arg]
    found: dict = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))  # type: ignore[type-arg]
    return found
