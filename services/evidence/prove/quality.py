"""What quality each precision keeps: predictions on a text, and answers to questions that can be checked."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from services.engines.base import Engine
from services.evidence.checker import Question, is_correct
from services.evidence.corpus import dialogues, questions

from .answer import Clock, Timed
from .chats import ChatDriver
from .distances import Distribution, divergence, likeliest, surprise
from .logits import Logits
from .results import Fidelity, QuestionAnswer, Share

ANSWER_TOKENS = 16

# Worked examples show a small model the form that the checker reads.
SHOTS = {
    "en": (
        ("A cup costs 3 euros. How many euros do 4 cups cost?\nAnswer with the number only.", "12"),
        (
            "Every bird has wings. Is it certain that a robin, which is a bird, has wings?\nAnswer yes or no only.",
            "Yes",
        ),
        ("Which is a colour? A) seven B) blue C) run D) loud\nAnswer with the letter only.", "B"),
    ),
    "ja": (
        ("1個30円のあめを4個買うと何円ですか。\n数字だけで答えてください。", "120"),
        (
            "鳥には羽があります。スズメは鳥です。スズメに羽はありますか。\n「はい」か「いいえ」だけで答えてください。",
            "はい",
        ),
        ("色はどれですか。 A) 七 B) 走る C) 青 D) 高い\n記号だけで答えてください。", "C"),
    ),
}

Readings = dict[tuple[int, int], Distribution]  # (text, position) -> what follows the tokens before position
ReadOnly = Mapping[tuple[int, int], Distribution]


def support_text(texts: int) -> list[str]:
    """`texts` long texts out of the English dialogues: both sides' words, in file order, nothing twice."""
    english = [d for d in dialogues() if d.language == "en"]
    size = len(english) // texts
    return [
        "\n".join(
            f"{turn.user}\n{turn.assistant}"
            for dialogue in english[place * size : (place + 1) * size]
            for turn in dialogue.turns
        )
        for place in range(texts)
    ]


async def read(
    logits: Logits,
    texts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Readings:
    """What the engine predicts at `places` of each text, one slot a text, at most for `seconds`."""
    until = clock() + seconds
    found: Readings = {}

    async def one(slot: int) -> None:
        for place in places[slot]:
            found[slot, place] = await logits.after(texts[slot][:place], slot)
            if clock() >= until:
                return

    await asyncio.gather(*(one(slot) for slot in range(len(texts))))
    return found


def fidelity(base: ReadOnly, other: ReadOnly, texts: Sequence[Sequence[int]], vocabulary: int) -> Fidelity:
    """`other` against `base` (16 bits) over the positions that both have. Raises ValueError when there are none."""
    places = sorted(base.keys() & other.keys())
    if not places:
        raise ValueError("no position was read at both precisions")
    nats = sum(surprise(other[at], texts[at[0]][at[1]], vocabulary) for at in places)
    apart = sum(divergence(base[at], other[at]) for at in places)
    agree = sum(likeliest(base[at]) == likeliest(other[at]) for at in places)
    n = len(places)
    return Fidelity(n, math.exp(nats / n), apart / n, agree / n)


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """Answers by question id. What is checked and compared is what they say, without their thoughts."""

    given: Mapping[str, Timed]

    def share(self, kind: str) -> Share:
        """Right answers among the questions of a kind that were asked."""
        asked = [q for q in questions() if q.kind == kind and q.id in self.given]
        return Share(sum(is_correct(q, self.given[q.id].text) for q in asked), len(asked))

    def only(self, asked: Sequence[Question]) -> QuestionScores:
        """The answers to these questions."""
        return QuestionScores({q.id: self.given[q.id] for q in asked if q.id in self.given})

    def same_as(self, other: QuestionScores) -> Share:
        """Answers that are word for word the same."""
        both = self.given.keys() & other.given.keys()
        return Share(sum(self.given[q].text.strip() == other.given[q].text.strip() for q in both), len(both))

    def listed(self) -> list[QuestionAnswer]:
        """Each answer with its thoughts and whether it is right."""
        return [
            QuestionAnswer(q.id, at.text.strip(), at.reasoning_content, at.reasoning_tokens, is_correct(q, at.text))
            for q in questions()
            if (at := self.given.get(q.id)) is not None
        ]

    @property
    def reasoning_tokens(self) -> float | None:
        """Of one question, on average."""
        return fmean(at.reasoning_tokens for at in self.given.values()) if self.given else None


def question_order() -> list[Question]:
    """All questions, mixed by a fixed seed, so that a run that stops early has some of every kind."""
    order = list(questions())
    random.Random(16).shuffle(order)
    return order


async def ask(
    engine: Engine,
    driver: ChatDriver,
    asked: Sequence[Question],
    at_once: int,
    *,
    seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> QuestionScores:
    """Greedy answers to `asked`, at most for `seconds`."""
    until = clock() + seconds
    given: dict[str, Timed] = {}
    for start in range(0, len(asked), at_once):
        batch = asked[start : start + at_once]
        requests = [driver.request(q.prompt, ANSWER_TOKENS, shots=SHOTS[q.language]) for q in batch]
        for question, timed in zip(batch, await driver.all_of(engine, requests, at_once), strict=True):
            given[question.id] = timed
        if clock() >= until:
            break
    return QuestionScores(given)
