"""Weekly figures of a bot's conversations, and unanswered questions, similar ones together."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.figures import begin_of, week_of
from services.contracts.bot_tests import parse_yaml
from services.knowledge.grouping import grouped
from services.knowledge.passages import pairs_of
from services.store.conversations import Conversation, ConversationStore, ConversationTurn
from tests.admin.conftest import Admin

PATH = "/bots/acme/support"
NOW_S = begin_of("2026-11-30") + 86_400.0


def test_similar_questions_are_together_in_every_language_and_others_are_not() -> None:
    questions = [
        "Do you ship to Norway?",
        "When will it arrive?",
        "Is shipping to Norway possible?",
        "How long does delivery take?",
        "Wann kommt mein Paket an?",
        "Do you ship to Chile?",
        "ギフトカードはありますか？",
        "Are your boards dishwasher safe?",
        "ギフトカードを売っていますか",
        "Darf das Brett in die Spülmaschine?",
        "How do I oil the board?",
        "Who founded the company?",
    ]
    assert grouped(questions) == [[1, 3, 4], [0, 2], [6, 8], [7, 9], [5], [10], [11]]
    assert grouped([]) == []
    assert grouped(["?!", "?!"]) == [[0], [1]]


def test_a_thousand_unlike_questions_are_grouped_in_seconds() -> None:
    began_s = time.monotonic()
    assert len(grouped([f"wooden bowl{number} number{number * 7} repaired" for number in range(1000)])) >= 1
    assert time.monotonic() - began_s < 10


def test_weeks_begin_on_mondays() -> None:
    assert week_of(begin_of("2026-11-30") - 1.0) == "2026-11-23"
    assert week_of(begin_of("2026-11-30")) == "2026-11-30"


def asked(text: str, at_s: float, **more: Any) -> tuple[ConversationTurn, ConversationTurn]:
    answer = {"who": "bot", "text": "...", "at_s": at_s, "chat": f"c{at_s}{text}", "finish": "stop", **more}
    return ConversationTurn(who="visitor", text=text, at_s=at_s), ConversationTurn(**answer)


async def talk(admin: Admin, at_s: float, *turns: ConversationTurn, **more: Any) -> Conversation:
    begun = Conversation.new("acme/support", at_s).model_copy(update={"turns": turns, **more})
    await ConversationStore(admin.gateway.connection).save(begun, 60)
    return begun


@pytest.fixture
async def talked(admin: Admin) -> Admin:
    admin.gateway.clock = lambda: NOW_S
    day_s = NOW_S - 3600
    await talk(admin, day_s, *asked("Opening hours?", day_s, rating="up"))
    await talk(admin, day_s, *asked("Do you ship to Norway?", day_s, missed=True), handed_over_s=day_s, state="waiting")
    await talk(admin, day_s, *asked("Hi", day_s), *asked("Is shipping to Norway possible?", day_s + 1, missed=True))
    last_s = NOW_S - 7 * 86_400
    await talk(admin, last_s, *asked("Who are you?", last_s, rating="down"), *asked("Hm", last_s, finish="error"))
    await talk(admin, NOW_S - 60 * 86_400, *asked("Long ago", 0.0, missed=True))
    return admin


async def test_figures_by_week_and_what_was_not_answered(talked: Admin) -> None:
    found = await talked.ask("GET", f"{PATH}/figures", weeks="3")
    none = dict.fromkeys(found["weeks"][0].keys() - {"week"}, 0)
    assert found["weeks"] == [
        {
            **none,
            "week": "2026-11-30",
            "conversations": 3,
            "by_bot": 1,
            "handed_over": 1,
            "questions": 4,
            "declined": 2,
            "rated_up": 1,
        },
        {**none, "week": "2026-11-23", "conversations": 1, "questions": 2, "failed": 1, "rated_down": 1},
        {**none, "week": "2026-11-16"},
    ]
    assert [(group["asked"], group["declined"], group["rated_down"]) for group in found["unanswered"]] == [
        (2, 2, 0),
        (1, 0, 1),
    ]
    first = found["unanswered"][0]
    assert {first["question"], *first["others"]} == {"Do you ship to Norway?", "Is shipping to Norway possible?"}
    assert found["whole"] is True


async def test_drafts_can_be_imported(talked: Admin) -> None:
    draft = (await talked.raw("GET", f"{PATH}/unanswered", format="faq")).text
    assert draft.count("\nQ: ") == 2
    assert pairs_of(draft, title="t") == []  # an answer that nobody has written is no answer
    filled = draft.replace("A: ", "A: Yes.", 1)
    assert [(pair.text, pair.question) for pair in pairs_of(filled, title="t")] == [
        ("Yes.", "Is shipping to Norway possible?")
    ]
    tests = parse_yaml((await talked.raw("GET", f"{PATH}/unanswered", format="tests")).text)
    assert [question.declined for question in tests.questions] == [False, False]


async def test_other_bots_conversations_do_not_count(talked: Admin) -> None:
    found = await talked.ask("GET", "/bots/acme/careful/figures", weeks="1")
    assert found["weeks"][0]["conversations"] == 0
    await talked.refused(404, "GET", "/bots/acme/nobody/figures")
