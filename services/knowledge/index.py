"""The passages of one bot in one SQLite file, found by their terms (FTS5).

A file is written whole and never changed, so that readers need no locks. FTS5 finds candidates; each is then scored by
the part of the query that it covers, a number between 0 and 1 that says how sure a hit is.
Why so: docs/adr/22-knowledge-in-sqlite.md.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.contracts.knowledge import Passage
from services.knowledge.terms import QueryUnit, language_of, terms_of, units_of

INDEX_FORMAT = 2  # grows with what a file has, or how its terms are made
PASSAGES_MAX = 50_000  # of one bot
CANDIDATES = 40  # that FTS5 finds, of which the best are taken
COMMON_PART = 0.25  # a term that more passages have finds nothing
COMMON_FROM = 200  # passages; in fewer every term counts
TERMS_MAX = 24  # of a query, the rarest first
BODY_WEIGHT = 0.75  # of a match in the text; one in the question or title counts 1
OTHER_LANGUAGE = 0.8
FACETS, FACET_WORTH = frozenset({"c_cost", "c_when"}), 0.5
HEAD_SHARE = 0.3  # of a score: how much of the pair's own question was asked

_SCHEMA = """
CREATE TABLE passages (id INTEGER PRIMARY KEY, title TEXT, text TEXT, question TEXT, url TEXT, source TEXT,
  language TEXT, head TEXT, body TEXT);
CREATE VIRTUAL TABLE terms USING fts5 (head, body, content='', tokenize="unicode61 remove_diacritics 0 tokenchars '_'");
CREATE TABLE problems (words TEXT);
CREATE VIRTUAL TABLE counts USING fts5vocab (terms, row);
"""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found. `score`: from 0 to 1."""

    passage: Passage
    score: float


def build(path: Path, passages: Iterable[Passage], problems: Iterable[str] = ()) -> int:
    """Write an index; the file appears when it is complete. Returns the number of passages, PASSAGES_MAX at most.

    `problems`: files that were left out of it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        with contextlib.closing(sqlite3.connect(scratch)) as database, database:
            database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
            count = _write(database, passages)
            database.executemany("INSERT INTO problems VALUES (?)", [(words,) for words in problems])
        os.chmod(scratch, 0o600)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _write(database: sqlite3.Connection, passages: Iterable[Passage]) -> int:
    count = 0
    for count, passage in enumerate(passages, 1):
        language = language_of(f"{passage.question} {passage.text}")
        head = " ".join(terms_of(passage.question or passage.title, language))
        body = " ".join(terms_of(passage.text, language))
        row = (passage.title, passage.text, passage.question, passage.url, passage.source, language, head, body)
        database.execute("INSERT INTO passages VALUES (?,?,?,?,?,?,?,?,?)", (count, *row))
        database.execute("INSERT INTO terms (rowid, head, body) VALUES (?,?,?)", (count, head, body))
        if count == PASSAGES_MAX:
            break
    database.execute("INSERT INTO terms (terms) VALUES ('optimize')")
    return count


class KnowledgeIndex:
    """An index file, open. Safe to use from several threads. Raises sqlite3.Error where the file is not one.

    `problems`: files that were left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self.size = int(self._database.execute("SELECT count(*) FROM passages").fetchone()[0])
        self.problems = tuple(str(row[0]) for row in self._database.execute("SELECT words FROM problems"))

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def pairs(self, limit: int) -> list[Passage]:
        """The first FAQ pairs, in the order in which they were given."""
        with self._lock:
            found = self._database.execute(
                "SELECT title, text, question, url, source FROM passages WHERE question != '' ORDER BY id LIMIT ?",
                (limit,),
            )
            return [Passage(*row) for row in found]

    def search(self, query: str, limit: int = 3) -> list[Hit]:
        """The best passages, best first; none where nothing of the query is in any."""
        language = language_of(query)
        units = units_of(query, language)
        if not units or not self.size:
            return []
        with self._lock:
            counts = self._counts({term for unit in units for term in unit.weights})
            rows = self._candidates(counts)
        worth = [self._worth(unit, counts) for unit in units]
        hits = [_scored(row, units, worth, language) for row in rows]
        return sorted((hit for hit in hits if hit.score > 0), key=lambda hit: -hit.score)[:limit]

    def _counts(self, terms: set[str]) -> Mapping[str, int]:
        """In how many passages each term is."""
        marks = ",".join("?" * len(terms))
        found = self._database.execute(f"SELECT term, doc FROM counts WHERE term IN ({marks})", [*terms])  # noqa: S608
        return dict(found.fetchall())

    def _candidates(self, counts: Mapping[str, int]) -> list[tuple[str, ...]]:
        most = self.size * COMMON_PART if self.size > COMMON_FROM else self.size
        rare = sorted((term for term, count in counts.items() if count <= most), key=counts.__getitem__)[:TERMS_MAX]
        rare = rare or sorted(counts, key=counts.__getitem__)[:1]
        if not rare:
            return []
        match = " OR ".join(f'"{term}"' for term in rare)
        found = self._database.execute(
            "SELECT title, text, question, url, source, language, head, body FROM passages WHERE id IN "
            "(SELECT rowid FROM terms WHERE terms MATCH ? ORDER BY bm25(terms, 2.0, 1.0) LIMIT ?)",
            (match, CANDIDATES),
        )
        return found.fetchall()

    def _worth(self, unit: QueryUnit, counts: Mapping[str, int]) -> float:
        """How telling a word is: its inverse document frequency, by its surest term that any passage has."""
        known = [term for term in unit.weights if counts.get(term)]
        count = counts[max(known, key=unit.weights.__getitem__)] if known else 1
        concepts = {term for term in unit.weights if term.startswith("c_")}
        return math.log(1 + self.size / (count + 0.5)) * (FACET_WORTH if concepts and concepts <= FACETS else 1.0)


def _scored(row: Sequence[str], units: Sequence[QueryUnit], worth: Sequence[float], language: str) -> Hit:
    title, text, question, url, source, spoken, head_text, body_text = row
    head, body = Counter(head_text.split()), Counter(body_text.split())
    covered = sum(value * _match(unit, head, body) for unit, value in zip(units, worth, strict=True)) / sum(worth)
    score = covered
    if question:
        asked = {term for unit in units for term in unit.weights}
        said = [term for term in head if not term.startswith("p_")]
        back = sum(term in asked for term in said) / len(said) if said else 0.0
        score = (1 - HEAD_SHARE) * covered + HEAD_SHARE * back
    if spoken != language:
        score *= OTHER_LANGUAGE
    return Hit(Passage(title, text, question, url, source), round(score, 4))


def _match(unit: QueryUnit, head: Mapping[str, int], body: Mapping[str, int]) -> float:
    """How well a passage has a word: by its best term, or by the part of its pieces."""
    best = max(
        (
            weight * (1.0 if term in head else BODY_WEIGHT)
            for term, weight in unit.weights.items()
            if not term.startswith("p_") and (term in head or term in body)
        ),
        default=0.0,
    )
    pieces = {term: weight for term, weight in unit.weights.items() if term.startswith("p_")}
    if pieces:
        weight = next(iter(pieces.values()))
        in_head = sum(term in head for term in pieces) / len(pieces)
        in_all = sum(term in head or term in body for term in pieces) / len(pieces)
        best = max(best, weight * max(in_head, BODY_WEIGHT * in_all))
    return best
