"""Whether a question is about something, by example phrases: the same words by stem, concept or a compound's part.

A question matches a phrase where it has SAID of the phrase's words, each counted by how well it matches: 1 by stem,
0.85 by concept, 0.8 as a whole part of a compound, up to 0.6 by some of its pieces. Small words (`what`, `für`) do not
count. The same question always gives the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from services.knowledge.terms import QueryUnit, language_of, matched, units_of

SAID = 0.78
WHOLE, WHOLE_FROM_PIECES = 0.8, 4
CHARS_MAX = 1_000  # of a question, its end


def says_any(question: str, phrases: Iterable[str]) -> bool:
    """Whether a question has the words of one of these phrases."""
    asked = question[-CHARS_MAX:]
    own = language_of(asked)
    terms: dict[str, set[str]] = {}
    for phrase in phrases:
        language, units = _units(phrase)
        if language not in terms:  # of a short question the language is a guess, so the phrase's own counts, too
            terms[language] = {
                term for each in {own, language} for unit in units_of(asked, each) for term in unit.weights
            }
        if units and sum(_match(unit, terms[language]) for unit in units) / len(units) >= SAID:
            return True
    return False


@lru_cache(maxsize=10_000)
def _units(phrase: str) -> tuple[str, Sequence[QueryUnit]]:
    language = language_of(phrase)
    return language, tuple(units_of(phrase, language))


def _match(unit: QueryUnit, terms: set[str]) -> float:
    """How well a question with these terms has a word, from 0 to 1."""
    found = matched(unit, terms)
    pieces = [term for term in unit.weights if term.startswith("p_")]
    whole = len(pieces) >= WHOLE_FROM_PIECES and terms.issuperset(pieces)
    return max(found, WHOLE) if whole else found
