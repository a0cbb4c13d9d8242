"""From a text to the terms that it is found by, for languages with spaces, German compounds, Japanese, Korean, Chinese.

A word gives its stem, the concept that it stands for (concepts.yaml) and, where it is long, its 5-letter pieces, so
that unknown compounds meet their parts. Scripts without spaces give pairs of characters: many of their words have two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import snowballstemmer
import yaml

STEMMERS: Mapping[str, str] = {
    "en": "english",
    "de": "german",
    "fr": "french",
    "es": "spanish",
    "it": "italian",
    "pt": "portuguese",
}
PIECE_CHARS = 5
COMPOUND_CHARS, PART_CHARS = 9, 4
PIECES_FROM_CHARS = 7  # shorter words are seldom compounds
CONCEPT_WEIGHT, PIECES_WEIGHT = 0.85, 0.6  # of a match by concept or pieces; one of stems counts 1
UNITS_MAX = 40  # of one query
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uff66-\uff9f々ー"
_WORD = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+(?:['’-][^\W_{_CJK}]+)*")
_IS_CJK = re.compile(rf"[{_CJK}]")
_ADDRESS = re.compile(r"\S+@\S+|https?://\S+")  # names in them are not what a text is about
_CJK_PART = re.compile("[\u30a0-\u30ffー]+|[\u3400-\u4dbf\u4e00-\u9fff々]+|[\uac00-\ud7af]+")


@dataclass(frozen=True, slots=True)
class QueryUnit:
    """One word of a query, with the terms that a passage may have for it, and how well each matches."""

    weights: Mapping[str, float]


def language_of(text: str) -> str:
    """`ja`, `ko`, `zh` by script, else the language whose small words the text has most of; English where none has."""
    if re.search("[\u3040-\u30ff]", text):
        return "ja"
    if re.search("[\uac00-\ud7af]", text):
        return "ko"
    if re.search("[\u4e00-\u9fff]", text):
        return "zh"
    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", _normal(text))
    counts = {name: sum(word in small for word in words) for name, small in _small_words().items()}
    return max(counts, key=lambda name: counts[name] + (name == "en") * 0.5)


def terms_of(text: str, language: str) -> list[str]:
    """The terms of a passage, with repetitions."""
    found: list[str] = []
    for unit in _units(text, language):
        found += unit.weights
    return found


def units_of(query: str, language: str) -> list[QueryUnit]:
    """What a query asks for, each thing once."""
    seen: dict[tuple[str, ...], QueryUnit] = {}
    for unit in _units(query, language):
        seen.setdefault(tuple(unit.weights), unit)
    return list(seen.values())[:UNITS_MAX]


def matched(unit: QueryUnit, terms: Set[str]) -> float:
    """How well a text with these terms has a word: by its best term, or by the part of its pieces; from 0 to 1."""
    best = max((weight for term, weight in unit.weights.items() if term[:2] != "p_" and term in terms), default=0.0)
    pieces = [weight for term, weight in unit.weights.items() if term.startswith("p_")]
    there = sum(term.startswith("p_") and term in terms for term in unit.weights)
    return max(best, pieces[0] * there / len(pieces)) if pieces else best


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).lower().replace("’", "'")


def _units(text: str, language: str) -> list[QueryUnit]:
    """Of the words with a topic; of all words where none has one (`Who are you?`)."""
    return list(_topics(text, language)) or [QueryUnit({f"s_{word}": 1.0}) for word in _WORD.findall(_normal(text))]


def _topics(text: str, language: str) -> Iterator[QueryUnit]:
    text = _ADDRESS.sub(" ", _normal(text))
    phrases, taken = _phrases(text)
    yield from phrases
    small = _small_words().get(language, frozenset())
    for word in _WORD.findall(taken):
        if _IS_CJK.match(word):
            yield from (unit for unit in _cjk_units(word) if small.isdisjoint(unit.weights))
        elif (word not in small or word in _concepts()) and (len(word) > 1 or word.isdigit()):
            yield from _word_units(word, language)


def _phrases(text: str) -> tuple[list[QueryUnit], str]:
    """Concepts that are said in several words, or in a script without spaces; and the text without those words."""
    found: list[QueryUnit] = []

    def take(match: re.Match[str]) -> str:
        names = _concepts()[match[0]]
        found.append(QueryUnit({**{f"c_{name}": CONCEPT_WEIGHT for name in names}, **_pairs(match[0])}))
        return " "

    return found, _phrase_pattern().sub(take, text)


def _pairs(phrase: str) -> dict[str, float]:
    """A CJK phrase is found by its own characters, too."""
    if not _IS_CJK.match(phrase):
        return {}
    return {phrase: 1.0} if len(phrase) < 3 else {phrase[at : at + 2]: 1.0 for at in range(len(phrase) - 1)}


def _cjk_units(word: str) -> Iterator[QueryUnit]:
    """Katakana words, and pairs of Chinese characters; hiragana between them is grammar."""
    for part in _CJK_PART.findall(word):
        if len(part) <= 2 or "\u30a0" <= part[0] <= "\u30ff":
            yield QueryUnit({part: 1.0})
        else:
            yield from (QueryUnit({part[at : at + 2]: 1.0}) for at in range(len(part) - 1))


@lru_cache(maxsize=50_000)
def _word_units(word: str, language: str) -> tuple[QueryUnit, ...]:
    """A German compound gives its parts where one is a known word: `Versandkosten` is Versand and Kosten."""
    if language == "de" and len(word) >= COMPOUND_CHARS and word not in _concepts():
        for known in _compound_parts():
            if word.startswith(known) and len(rest := word[len(known) :]) >= PART_CHARS:
                rest = rest[1:] if rest[0] in "sn" and rest[1:] in _concepts() else rest
                return (_word_unit(known, language), *_word_units(rest, language))
            if word.endswith(known) and len(rest := word[: -len(known)]) >= PART_CHARS:
                return (*_word_units(rest, language), _word_unit(known, language))
    return (_word_unit(word, language),)


@lru_cache(maxsize=50_000)
def _word_unit(word: str, language: str) -> QueryUnit:
    stem = _stem(word, language)
    weights = {
        f"c_{name}": CONCEPT_WEIGHT for name in _concepts().get(word) or _stemmed_concepts(language).get(stem, ())
    }
    if len(word) >= PIECES_FROM_CHARS:
        share = PIECES_WEIGHT
        weights |= {f"p_{word[at : at + PIECE_CHARS]}": share for at in range(len(word) - PIECE_CHARS + 1)}
    elif len(word) >= PIECE_CHARS:
        weights |= {f"p_{word[:PIECE_CHARS]}": PIECES_WEIGHT}
    return QueryUnit({**weights, stem: 1.0})


def _stem(word: str, language: str) -> str:
    stemmer = _stemmer(language)
    return str(stemmer.stemWord(word)) if stemmer else word


@cache
def _stemmer(language: str) -> snowballstemmer.stemmer | None:
    name = STEMMERS.get(language)
    return snowballstemmer.stemmer(name) if name else None


@cache
def _small_words() -> Mapping[str, frozenset[str]]:
    return {name: frozenset(str(words).split()) for name, words in _read("languages.yaml").items()}


@cache
def _concepts() -> Mapping[str, tuple[str, ...]]:
    """Word or phrase -> the concepts that it may stand for."""
    found: dict[str, set[str]] = {}
    for name, words in _read("concepts.yaml").items():
        for word in (word.strip() for word in _normal(words).split(",")):
            found.setdefault(word, set()).add(name)
    return {word: tuple(sorted(names)) for word, names in found.items()}


@cache
def _stemmed_concepts(language: str) -> Mapping[str, tuple[str, ...]]:
    """The same, by the stems that a language gives these words."""
    found: dict[str, set[str]] = {}
    for word, names in _concepts().items():
        found.setdefault(_stem(word, language), set()).update(names)
    return {stem: tuple(sorted(names)) for stem, names in found.items()}


@cache
def _compound_parts() -> list[str]:
    """Known words that German puts into others, longest first."""
    words = (word for word in _concepts() if len(word) >= PART_CHARS and word.isalpha() and not _IS_CJK.match(word))
    return sorted(words, key=len, reverse=True)


@cache
def _phrase_pattern() -> re.Pattern[str]:
    words = sorted((w for w in _concepts() if " " in w or _IS_CJK.match(w)), key=len, reverse=True)
    parts = [re.escape(word) if _IS_CJK.match(word) else rf"\b{re.escape(word)}\b" for word in words]
    return re.compile("|".join(parts))


def _read(name: str) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(files("services.knowledge").joinpath(name).read_text(encoding="utf-8"))
    return {str(key): str(value) for key, value in found.items()}
