"""The corpora, written for Bunkhouse: support dialogues, and questions with checkable answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from services.contracts.chats import Task
from services.evidence.checker import Question

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """What the customer says, and what a good agent would have answered."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A support conversation of 2 to 8 turns."""

    id: str
    language: Literal["en", "ja"]
    topic: str
    task: Task
    turns: tuple[DialogueTurn, ...]


@cache
def dialogues() -> tuple[Dialogue, ...]:
    """All dialogues, in file order."""
    return _rows("dialogues.jsonl", Dialogue)


@cache
def questions() -> tuple[Question, ...]:
    """All questions, in file order."""
    return _rows("questions.jsonl", Question)


def document(rng: random.Random, characters: int, language: str) -> str:
    """A case file of about `characters` characters: whole dialogues in a drawn order, numbered."""
    pool = [d for d in dialogues() if d.language == language]
    parts: list[str] = []
    length = number = 0
    while length < characters:
        for dialogue in rng.sample(pool, len(pool)):
            number += 1
            lines = [f"Case {number} ({dialogue.topic})"]
            for turn in dialogue.turns:
                lines += [f"Customer: {turn.user}", f"Agent: {turn.assistant}"]
            parts.append("\n".join(lines))
            length += len(parts[-1]) + 2
            if length >= characters:
                break
    return "\n\n".join(parts)[:characters]


def _rows(name: str, shape: type[Row]) -> tuple[Row, ...]:
    lines = (files(__package__) / "corpora" / name).read_bytes().splitlines()
    return tuple(map(TypeAdapter(shape).validate_json, filter(None, lines)))
