"""What one user will say and do, drawn from the scenario's seed alone.

The same seed, tenant and number give the same session whatever the server does, so two runs are comparable.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from services.contracts.scenario import Dialogues, Documents, Questions, Scenario, TenantLoad
from services.evidence import corpus
from services.evidence.checker import Question

_DOCUMENT_QUESTIONS = {
    "en": (
        "Which case should be handled first, and why?",
        "List the cases that are about money, with their numbers.",
        "Write a two-sentence summary of case 1 for a manager.",
        "Which customers were unhappy with the first answer?",
        "What do the last two cases have in common?",
        "Draft a short reply to the customer of case 2.",
        "Which cases could a better help page have prevented?",
        "Name one case where the agent promised something.",
    ),
    "ja": (
        "最初に対応すべき案件はどれですか。理由も教えてください。",
        "お金に関する案件の番号を挙げてください。",
        "案件1を上司向けに二文で要約してください。",
        "最初の回答に不満だったお客様は誰ですか。",
        "最後の二件に共通する点は何ですか。",
        "案件2のお客様への短い返信を書いてください。",
        "ヘルプページがあれば防げた案件はどれですか。",
        "担当者が何かを約束した案件を一つ挙げてください。",
    ),
}


@dataclass(frozen=True, slots=True)
class TurnPlan:
    """One message to send. `scripted` is the answer to put into the history instead of the server's."""

    user: str
    think_s: float  # before sending, after the last answer's end; 0 for the first
    abandon: bool
    scripted: str | None = None


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """A whole session of one tenant."""

    id: str
    tenant: TenantLoad
    language: str
    task: str
    turns: tuple[TurnPlan, ...]
    question: Question | None = None


def plan_session(scenario: Scenario, tenant: TenantLoad, number: int) -> SessionPlan:
    """The tenant's session `number` (from 0)."""
    rng = random.Random(f"{scenario.seed}/{tenant.name}/{number}")
    question = None
    chats = tenant.chats
    match chats:
        case Dialogues():
            pool = [d for d in corpus.dialogues() if d.language in chats.languages and d.task in chats.tasks]
            if not pool:
                raise ValueError(f"tenant {tenant.name}: no dialogue has these languages and tasks")
            chosen = rng.choice(pool)
            language, task = chosen.language, chosen.task.value
            keep = chats.history == "corpus"
            said = [(t.user, t.assistant if keep else None) for t in chosen.turns[: chats.turns_max]]
        case Questions():
            question = rng.choice([q for q in corpus.questions() if q.kind in chats.kinds])
            language, task = question.language, question.kind
            said = [(question.prompt, None)]
        case Documents():
            language, task = rng.choice(chats.languages), "facts"
            asked = rng.sample(_DOCUMENT_QUESTIONS[language], chats.turns)
            said = [(words, None) for words in asked]
            said[0] = (f"{corpus.document(rng, chats.characters, language)}\n\n{asked[0]}", None)
    turns = tuple(_turns(rng, tenant, said))
    return SessionPlan(f"{tenant.name}-{scenario.seed}-{number}", tenant, language, task, turns, question)


def _turns(rng: random.Random, tenant: TenantLoad, said: list[tuple[str, str | None]]) -> Iterator[TurnPlan]:
    for place, (user, scripted) in enumerate(said):
        mean = tenant.think_s_mean
        think = rng.expovariate(1 / mean) if place and mean > 0 else 0.0
        yield TurnPlan(user, think, rng.random() < tenant.abandon.share, scripted)
