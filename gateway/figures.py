"""A bot's conversations in figures, week by week, and the questions that it did not answer, similar ones together.

A conversation belongs to the week in which it began. Weeks begin on Mondays, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from services.knowledge.grouping import grouped
from services.knowledge.terms import language_of
from services.store.conversations import Conversation, ConversationTurn

QUESTIONS_MAX = 1_000  # that are grouped, the newest
EXAMPLES_MAX = 5
WEEK = timedelta(days=7)


class WeekFigures(BaseModel):
    """One week of a bot. `by_bot`: conversations that no person was needed for, with nothing declined or failed.

    `declined` and `failed` are answers, `rated_*` are ratings of answers.
    """

    model_config = ConfigDict(frozen=True)

    week: str
    conversations: int = 0
    by_bot: int = 0
    handed_over: int = 0
    questions: int = 0
    declined: int = 0
    failed: int = 0
    rated_up: int = 0
    rated_down: int = 0


class UnansweredGroup(BaseModel):
    """Similar questions that the bot declined, or whose answer was rated down. `question`: the one asked most, or last.

    `session`: of a conversation with it.
    """

    model_config = ConfigDict(frozen=True)

    question: str
    language: str
    asked: int
    declined: int
    rated_down: int
    last_s: float
    session: str
    others: list[str]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """One question, and why it is here."""

    text: str
    at_s: float
    session: str
    declined: bool


def week_of(at_s: float) -> str:
    """The Monday of a time's week."""
    day = datetime.fromtimestamp(at_s, UTC).date()
    return (day - timedelta(days=day.weekday())).isoformat()


def weeks_until(now_s: float, count: int) -> list[str]:
    """The last weeks, this one included, the newest first."""
    monday = datetime.fromisoformat(week_of(now_s))
    return [(monday - number * WEEK).date().isoformat() for number in range(count)]


def begin_of(week: str) -> float:
    """When a week began, Unix time."""
    return datetime.fromisoformat(week).replace(tzinfo=UTC).timestamp()


def weekly(conversations: Iterable[Conversation], weeks: Sequence[str]) -> list[WeekFigures]:
    """The figures of these weeks."""
    counts = {week: dict.fromkeys(WeekFigures.model_fields.keys() - {"week"}, 0) for week in weeks}
    for found in conversations:
        if (week := week_of(found.began_s)) in counts:
            for name, amount in _of(found).items():
                counts[week][name] += amount
    return [WeekFigures(week=week, **counts[week]) for week in weeks]


def _of(found: Conversation) -> dict[str, int]:
    answers = [turn for turn in found.turns if turn.who == "bot" and turn.finish is not None]
    declined = sum(turn.missed for turn in answers)
    failed = sum(turn.finish == "error" for turn in answers)
    person = found.handed_over_s is not None or any(turn.who == "person" for turn in found.turns)
    return {
        "conversations": 1,
        "by_bot": int(not person and not declined and not failed),
        "handed_over": int(person),
        "questions": sum(turn.who == "visitor" for turn in found.turns),
        "declined": declined,
        "failed": failed,
        "rated_up": sum(turn.rating == "up" for turn in answers),
        "rated_down": sum(turn.rating == "down" for turn in answers),
    }


def unanswered_in(found: Conversation) -> Iterator[Unanswered]:
    """Questions that the bot declined, or whose answer was rated down."""
    asked: ConversationTurn | None = None
    for turn in found.turns:
        if turn.who == "visitor":
            asked = turn
        elif turn.who == "bot" and asked is not None and asked.text.strip() and (turn.missed or turn.rating == "down"):
            yield Unanswered(" ".join(asked.text.split()), asked.at_s, found.session, turn.missed)
            asked = None


def groups_of(questions: Iterable[Unanswered]) -> list[UnansweredGroup]:
    """Similar questions together, what is asked most first. Takes up to seconds: for a thread of its own."""
    newest = sorted(questions, key=lambda one: -one.at_s)[:QUESTIONS_MAX]
    return [_group([newest[place] for place in places]) for places in grouped([one.text for one in newest])]


def _group(members: Sequence[Unanswered]) -> UnansweredGroup:
    """Of questions, the newest first."""
    texts = list(dict.fromkeys(one.text for one in members))
    by_text = {text: sum(one.text == text for one in members) for text in texts}
    question = max(texts, key=by_text.__getitem__)
    return UnansweredGroup(
        question=question,
        language=language_of(question),
        asked=len(members),
        declined=sum(one.declined for one in members),
        rated_down=sum(not one.declined for one in members),
        last_s=members[0].at_s,
        session=next(one.session for one in members if one.text == question),
        others=[text for text in texts if text != question][:EXAMPLES_MAX],
    )
