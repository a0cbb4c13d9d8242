"""Similar questions together, whatever their language's spelling: by the terms that knowledge is found by.

Two questions are as similar as they cover each other: the part of one's words, weighted by how rare they are among all
questions, that the other has by stem, concept or pieces; the mean of both ways. Questions come in order; each joins the
group whose questions are most similar to it in the mean, or begins one. The same questions give the same groups.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.knowledge.terms import QueryUnit, language_of, matched, units_of

SIMILAR = 0.4
CANDIDATES = 12  # groups that one question is compared with
COMPARED = 5  # of a group's questions
CHARS_MAX = 500  # of a question


@dataclass(frozen=True, slots=True)
class _Asked:
    units: Sequence[QueryUnit]
    terms: frozenset[str]


def grouped(questions: Sequence[str]) -> list[list[int]]:
    """Places of the questions, group by group; the largest first, then by the first question's place."""
    asked = [_asked(text) for text in questions]
    counts = Counter(term for one in asked for term in one.terms)
    groups: list[list[int]] = []
    having: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(asked):
        best = _best(one, groups, asked, having, counts)
        if best is not None:
            groups[best].append(place)
        else:
            best = len(groups)
            groups.append([place])
        if len(groups[best]) <= COMPARED:
            for term in one.terms:
                having[term].append(best)
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def _asked(text: str) -> _Asked:
    units = units_of(text[:CHARS_MAX], language_of(text))
    return _Asked(units, frozenset(term for unit in units for term in unit.weights))


def _best(
    one: _Asked,
    groups: Sequence[Sequence[int]],
    asked: Sequence[_Asked],
    having: Mapping[str, Sequence[int]],
    counts: Mapping[str, int],
) -> int | None:
    """The group that a question belongs to."""
    shared = Counter(number for term in one.terms for number in set(having.get(term, ())))
    best, best_value = None, SIMILAR
    for number, _ in sorted(shared.items(), key=lambda item: (-item[1], item[0]))[:CANDIDATES]:
        members = groups[number][:COMPARED]
        value = sum(_similarity(one, asked[place], counts, len(asked)) for place in members) / len(members)
        if value > best_value or (value == best_value and best is None):
            best, best_value = number, value
    return best


def _similarity(one: _Asked, other: _Asked, counts: Mapping[str, int], total: int) -> float:
    return (_covered(one, other, counts, total) + _covered(other, one, counts, total)) / 2


def _covered(one: _Asked, other: _Asked, counts: Mapping[str, int], total: int) -> float:
    worth = [_worth(unit, counts, total) for unit in one.units]
    found = sum(value * matched(unit, other.terms) for unit, value in zip(one.units, worth, strict=True))
    return found / sum(worth) if one.units else 0.0


def _worth(unit: QueryUnit, counts: Mapping[str, int], total: int) -> float:
    """How telling a word is, by its commonest term: that of a concept that many questions have says little."""
    commonest = max(counts[term] for term in unit.weights if not term.startswith("p_"))
    return math.log(1.3 + total / commonest)
