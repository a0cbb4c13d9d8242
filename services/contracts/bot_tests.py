"""A bot's test set: questions with what their answers must have, as people write it (YAML, CSV), and what came of it.

An expectation is a text, found whatever its case and spaces, or /a regular expression/.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

QUESTIONS_MAX = 300
TURNS_MAX = 8
EXPECTED_MAX = 8
ANSWER_CHARS_MAX = 4_000  # of an answer that is searched and kept
FILE_CHARS_MAX = 1_000_000
COLUMNS = ("id", "ask", "must", "must_not", "source", "action", "declined")
_LISTS = ("ask", "must", "must_not")

Expected = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Said = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
TestedBits = Literal[4, 8, 16]


class BadTestSet(ValueError):
    """A file that holds no test set. Says where and why."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BotQuestion(_Frozen):
    """One question, or several turns of which the last answer is looked at.

    `action`: a call that must be decided on, or `none`. `source`: the title or address of a source that the answer must
    have, or a part of one. `declined`: whether the bot must say that it does not know.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    ask: Annotated[tuple[Said, ...], Field(min_length=1, max_length=TURNS_MAX)]
    must: Annotated[tuple[Expected, ...], Field(max_length=EXPECTED_MAX)] = ()
    must_not: Annotated[tuple[Expected, ...], Field(max_length=EXPECTED_MAX)] = ()
    source: Annotated[str, Field(max_length=300)] = ""
    action: Annotated[str, Field(max_length=64)] = ""
    declined: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_text_is_a_list(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        return {name: [v] if name in _LISTS and isinstance(v, str) else v for name, v in given.items()}

    @model_validator(mode="after")
    def _can_be_wrong(self) -> Self:
        for text in (*self.must, *self.must_not):
            if (pattern := pattern_of(text)) is not None:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{text} is not a regular expression: {error}") from None
        if not (self.must or self.must_not or self.source or self.action or self.declined is not None):
            raise ValueError("it expects nothing: name must, must_not, source, action or declined")
        return self


class BotQuestions(_Frozen):
    """A whole test set."""

    questions: Annotated[tuple[BotQuestion, ...], Field(max_length=QUESTIONS_MAX)] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        ids = [question.id for question in self.questions]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"ids must differ; given twice: {', '.join(twice[:5])}")
        return self


class TrialCall(_Frozen):
    """A call that the bot decided on. `status` is `dry` or `waits` where it was not made."""

    action: str
    arguments: dict[str, JsonValue]
    status: str


class TrialSource(_Frozen):
    """A source of an answer."""

    title: str
    url: str = ""


class TrialAnswer(_Frozen):
    """What a bot answered to a test's question."""

    text: str
    finish: str
    kv_bits: int
    missed: bool = False
    sources: tuple[TrialSource, ...] = ()
    calls: tuple[TrialCall, ...] = ()


class Verdict(_Frozen):
    """One question at some KV bits. `wrong`: what was missing or too much, in words; empty: it is right."""

    bits: int
    wrong: tuple[str, ...] = ()
    answer: TrialAnswer | None = None

    @property
    def right(self) -> bool:
        return not self.wrong


class JudgedQuestion(_Frozen):
    """One question at all KV bits."""

    question: BotQuestion
    verdicts: tuple[Verdict, ...]

    @property
    def differs(self) -> bool:
        """Whether it is right at some KV bits and wrong at others."""
        return len({verdict.right for verdict in self.verdicts}) > 1


class BotTestReport(_Frozen):
    """A run of a test set. `left_out`: KV bits that were wanted and not tried, with the reason."""

    job: str
    bot: str
    at_s: float
    bits: tuple[int, ...]
    left_out: dict[int, str] = {}
    questions: tuple[JudgedQuestion, ...]

    def right(self, bits: int) -> int:
        """How many questions were right at these KV bits."""
        return sum(verdict.right for judged in self.questions for verdict in judged.verdicts if verdict.bits == bits)


def pattern_of(expected: str) -> str | None:
    """The regular expression in /slashes/; None for a plain text."""
    return expected[1:-1] if len(expected) > 2 and expected[0] == expected[-1] == "/" else None


def plain(text: str) -> str:
    """A text as expectations are compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def patterns_of(question: BotQuestion) -> list[str]:
    """All regular expressions of a question."""
    return [found for text in (*question.must, *question.must_not) if (found := pattern_of(text)) is not None]


def judged(question: BotQuestion, answer: TrialAnswer, matches: Mapping[str, bool | None]) -> list[str]:
    """What is wrong with an answer, in words. `matches`: regular expression -> whether it matches; None: too slow."""
    wrong: list[str] = []
    said = plain(answer.text)
    for text, wanted in [*((text, True) for text in question.must), *((text, False) for text in question.must_not)]:
        pattern = pattern_of(text)
        found = plain(text) in said if pattern is None else matches.get(pattern)
        if found is None:
            wrong.append(f"{text} took too long to look for")
        elif found != wanted:
            wrong.append(f"{'missing' if wanted else 'must not be there'}: {text}")
    return [*wrong, *_beside(question, answer)]


def _beside(question: BotQuestion, answer: TrialAnswer) -> Iterable[str]:
    """What is wrong beside the text."""
    if question.source and not any(_is(question.source, source) for source in answer.sources):
        named = ", ".join(source.title for source in answer.sources) or "none"
        yield f"source missing: {question.source} (there: {named})"
    called = {call.action for call in answer.calls if call.status != "invalid"}
    if question.action == "none" and called:
        yield f"no action was expected, but {', '.join(sorted(called))}"
    elif question.action not in ("", "none", *called):
        yield f"action missing: {question.action} (there: {', '.join(sorted(called)) or 'none'})"
    if question.declined is not None and question.declined != answer.missed:
        yield "it should have declined" if question.declined else "it declined"


def _is(wanted: str, source: TrialSource) -> bool:
    return plain(wanted) in plain(source.title) or plain(wanted) in plain(source.url)


def parse_yaml(text: str) -> BotQuestions:
    """A test set from a list of questions; ids that are left out are q1, q2, .... Raises BadTestSet."""
    _check_size(text)
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if getattr(event, "anchor", None):
                raise BadTestSet("aliases are not supported")
        given = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadTestSet(f"this is not valid YAML: {error}") from error
    if isinstance(given, dict) and given.keys() == {"questions"}:
        given = given["questions"]
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise BadTestSet("it must be a list of questions")
    return _checked([{"id": f"q{number}", **each} for number, each in enumerate(given, 1)])


def parse_csv(text: str) -> BotQuestions:
    """A test set from a table with a head; several turns or expectations are lines of one cell. Raises BadTestSet."""
    _check_size(text)
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
        rows, names = list(reader), reader.fieldnames or []
    except csv.Error as error:
        raise BadTestSet(f"this is not valid CSV: {error}") from error
    if "ask" not in names or (unknown := sorted(set(names) - set(COLUMNS))):
        raise BadTestSet(f"the columns are {', '.join(COLUMNS)}" + (f", not {unknown[0]}" if "ask" in names else ""))
    return _checked([_from_row(number, row) for number, row in enumerate(rows, 1)])


def _from_row(number: int, row: Mapping[str, str | None]) -> dict[str, object]:
    found: dict[str, object] = {"id": f"q{number}"}
    for name, value in row.items():
        text = (value or "").strip() if name in COLUMNS else ""
        if text:
            found[name] = [line.strip() for line in text.splitlines() if line.strip()] if name in _LISTS else text
    return found


def _check_size(text: str) -> None:
    if len(text) > FILE_CHARS_MAX:
        raise BadTestSet(f"it is longer than {FILE_CHARS_MAX:,} characters")


def _checked(given: list[dict[str, object]]) -> BotQuestions:
    try:
        return BotQuestions.model_validate({"questions": given})
    except ValidationError as error:
        first = error.errors()[0]
        where, _, option = ".".join(map(str, first["loc"][1:])).partition(".")
        name = f"question {int(where) + 1}{f', {option}' if option else ''}: " if where.isdigit() else ""
        raise BadTestSet(f"{name}{first['msg'].removeprefix('Value error, ')}") from None


def as_yaml(questions: BotQuestions) -> str:
    """As `parse_yaml` reads it."""
    rows = [_as_written(question) for question in questions.questions]
    return yaml.safe_dump(rows, allow_unicode=True, sort_keys=False, width=120)


def _as_written(question: BotQuestion) -> dict[str, object]:
    found = question.model_dump(mode="json", exclude_defaults=True)
    return {name: v[0] if name in _LISTS and len(v) == 1 else v for name, v in found.items()}


def as_csv(questions: BotQuestions) -> str:
    """As `parse_csv` reads it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for question in questions.questions:
        row = question.model_dump(mode="json", exclude_defaults=True)
        writer.writerow({name: "\n".join(v) if isinstance(v, list) else v for name, v in row.items()})
    return out.getvalue()
