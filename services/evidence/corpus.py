"""The corpora, written for Bunkhouse: support dialogues, and questions with checkable answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import orjson

from services.contracts.chats import Task
from services.evidence.checker import Question


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
    return tuple(
        Dialogue(
            id=row["id"],
            language=row["language"],
            topic=row["topic"],
            task=Task(row["task"]),
            turns=tuple(DialogueTurn(**turn) for turn in row["turns"]),
        )
        for row in _rows("dialogues.jsonl")
    )


@cache
def questions() -> tuple[Question, ...]:
    """All questions, in file order."""
    return tuple(Question(**row) for row in _rows("questions.jsonl"))


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


def _rows(name: str) -> list[dict[str, Any]]:
    text = (files(__package__) / "corpora" / name).read_bytes()
    return [orjson.loads(line) for line in text.splitlines() if line]
