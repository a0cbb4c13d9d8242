"""A visitor is handed over to a person, who answers in the widget."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import orjson
import pytest

from gateway.desk.people import escalated, replied
from gateway.desk.phrases import asks_for_person
from gateway.widget.sites import WidgetSite
from services.config.people import OfficeHours, PeopleConfig
from services.config.schema import BotConfig, WidgetConfig
from services.store.connection import connect
from services.store.conversation_index import ConversationIndex
from services.store.conversations import Conversation, ConversationStore, ConversationTurn

from .conftest import BOT, Page
from .test_refusals import change_widget

NOW_S = 1_764_000_000.0
ASKING = [
    "I want to talk to a human",
    "Can I speak with a real person please?",
    "get me an agent",
    "human please",
    "Ich möchte mit einem Menschen sprechen",
    "Kann ich bitte mit einem Mitarbeiter reden?",
    "Verbinden Sie mich mit einer Person",
    "Je veux parler à un humain",
    "Puis-je parler à quelqu'un ?",
    "Quiero hablar con una persona",
    "¿Puedo hablar con un agente?",
    "Vorrei parlare con un operatore",
    "Posso parlare con una persona?",
    "Quero falar com um atendente",
    "Posso falar com uma pessoa?",
    "人間と話したいです",
    "担当者につないでください",
    "オペレーターと話せますか",
    "상담원 연결해 주세요",
    "사람과 대화하고 싶어요",
    "我想和真人说话",
    "转人工",
    "人工客服",
]
ABOUT_GOODS = [
    "Where is order 4711?",
    "Is this board safe for a person with allergies?",
    "Do you need a person's signature?",
    "Wie viele Personen sitzen an dem Tisch?",
    "Für welche Menschen ist das gut?",
    "Combien de personnes à table ?",
    "¿Es para una persona mayor?",
    "È adatto a una persona alta?",
    "É bom para uma pessoa alta?",
    "何人用ですか",
    "몇 사람이 쓸 수 있나요?",
    "这个适合几个人用",
    "I don't want to talk to a human",
    "The cleaning agent damaged my bowl",
]


@pytest.mark.parametrize("text", ASKING)
def test_a_visitor_asks_for_a_person_in_nine_languages(text: str) -> None:
    assert asks_for_person(text)


@pytest.mark.parametrize("text", ABOUT_GOODS)
def test_a_question_that_mentions_people_goes_to_the_bot(text: str) -> None:
    assert not asks_for_person(text)


def test_a_bots_own_words_hand_over() -> None:
    assert asks_for_person("I will call my LAWYER", ("lawyer",))


def site(**widget: Any) -> WidgetSite:
    made = WidgetConfig.model_validate({"handover": {}, **widget})
    return WidgetSite("bhw-x", "acme", "acme/help", BotConfig(model="m", widget=made), made)


def conversation(*missed: bool) -> Conversation:
    turns = tuple(
        ConversationTurn(who="bot", text="?", at_s=1.0, chat=f"c{n}", finish="stop", missed=each)
        for n, each in enumerate(missed)
    )
    return Conversation(session="s" * 32, bot="acme/help", began_s=1.0, turns=turns)


@pytest.mark.parametrize(
    ("missed", "state"),
    [((True,), "bot"), ((True, True), "waiting"), ((True, False, True), "bot"), ((False, True, True), "waiting")],
)
def test_a_bot_that_missed_twice_in_a_row_hands_over(missed: tuple[bool, ...], state: str) -> None:
    assert escalated(site(), conversation(*missed), NOW_S).state == state


def test_nobody_is_called_outside_office_hours() -> None:
    closed = site(office_hours={"days": []})
    assert escalated(closed, conversation(True, True), NOW_S).state == "bot"


@pytest.mark.parametrize(
    ("hours", "at_s", "there"),
    [  # 2025-11-24 is a Monday; 1763967600 is 07:00 UTC, 08:00 in Berlin
        ({"opens": "08:00", "closes": "17:00", "time_zone": "Europe/Berlin"}, 1_763_967_600, True),
        ({"opens": "08:00", "closes": "17:00"}, 1_763_967_600, False),
        ({"opens": 480, "closes": 1020, "time_zone": "Europe/Berlin"}, 1_763_967_600, True),
        ({"opens": "22:00", "closes": "08:00", "days": ["sun"]}, 1_763_967_600, True),
        ({"opens": "22:00", "closes": "06:00", "days": ["sun"]}, 1_763_967_600, False),
        ({"opens": "00:00", "closes": "00:00", "days": ["mon"]}, 1_763_967_600, True),
    ],
)
def test_office_hours(hours: dict[str, Any], at_s: float, there: bool) -> None:
    assert OfficeHours.model_validate(hours).open_at(at_s) is there


async def test_writers_at_the_same_moment_lose_no_turn(redis_url: str) -> None:
    """Two gateways, a visitor and a person: as many turns are kept as were written."""
    async with connect(redis_url) as one, connect(redis_url) as other:
        stores = [ConversationStore(one), ConversationStore(other)]
        await stores[0].save(conversation(), 1)

        async def write(number: int) -> None:
            turn = ConversationTurn(who="visitor" if number % 2 else "person", text=str(number), at_s=NOW_S)
            await stores[number % 2].change("acme/help", "s" * 32, 1, NOW_S, lambda now: now.with_turns(turn))

        await asyncio.gather(*(write(number) for number in range(40)))
        kept = await stores[0].read("acme/help", "s" * 32)
    assert kept is not None
    assert sorted(int(turn.text) for turn in kept.turns) == list(range(40))


async def test_conversations_are_listed_by_bot_and_deleted(redis_url: str) -> None:
    async with connect(redis_url) as connection:
        store, index = ConversationStore(connection), ConversationIndex(connection)
        for number in range(3):
            one = conversation(False).model_copy(update={"session": str(number) * 32, "began_s": NOW_S + number})
            await store.save(one, 30)
        found = [each.conversation.session[0] async for each in index.of_bot("acme/help", NOW_S + 9)]
        assert found == ["2", "1", "0"]
        await store.change("acme/help", "1" * 32, 30, NOW_S + 5, lambda now: replied(now, "Hello", "Ada", NOW_S))
        assert [each.conversation.session[0] for each in await index.open()] == ["1"]
        await index.delete("acme/help", "1" * 32)
        assert await index.open() == []
        assert await store.read("acme/help", "1" * 32) is None
        assert [each.conversation.session[0] async for each in index.of_bot("acme/help", NOW_S + 9)] == ["2", "0"]
        assert await connection.redis.keys("*" + "1" * 32) == []


async def events(page: Page, session: str, count: int, **headers: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Id, name and data of the next events."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    fields: dict[str, str] = {}
    url = f"{page.base}/sessions/{session}/events"
    async with page.http.stream("GET", url, headers={"origin": page.origin, **headers}) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                fields[name] = value
            elif not line and "data" in fields:
                found.append((fields.get("id", ""), fields["event"], orjson.loads(fields["data"])))
                fields = {}
                if len(found) == count:
                    break
    return found


async def test_a_person_answers_in_the_widget(page: Page) -> None:
    await change_widget(page, handover_webhook=None, handover=PeopleConfig())
    assert (await page.get("config")).json()["handover"] is True
    asked = await page.say("Which wood is it?")
    await page.read(asked["chat"])
    told = (await page.post("messages", {"session": asked["session"], "text": "I want to talk to a human"})).json()
    assert (told["chat"], told["state"]) == (None, "waiting")
    more = (await page.post("messages", {"session": asked["session"], "text": "Anybody?"})).json()
    assert (more["chat"], more["state"]) == (None, "waiting")
    shown = (await page.get(f"sessions/{asked['session']}")).json()
    assert [turn["text"] for turn in shown["turns"]][-2:] == ["I want to talk to a human", "Anybody?"]
    assert shown["handed_over"] is True

    store = ConversationStore(page.stage.connection)
    following = asyncio.create_task(events(page, asked["session"], 3, **{"last-event-id": shown["last_event"]}))
    await store.types(asked["session"], on=True)
    at_s = page.stage.gateway.clock()
    await asyncio.sleep(0)
    await store.change(BOT, asked["session"], 30, at_s, lambda now: replied(now, "Oak.", "Ada", at_s))
    found = await asyncio.wait_for(following, 10)
    by_name = {name: data for _, name, data in found}
    assert by_name["typing"] == {"on": True}
    assert by_name["turn"] == {"who": "person", "text": "Oak.", "name": "Ada", "at_s": at_s}
    assert by_name["state"] == {"state": "person"}
    again = await events(
        page, asked["session"], 1, **{"last-event-id": next(each for each, name, _ in found if name == "turn")}
    )
    assert again[0][2] == {"state": "person"}


async def test_back_with_the_bot_it_answers_and_knows_what_the_person_said(page: Page) -> None:
    await change_widget(page, handover_webhook=None, handover=PeopleConfig())
    first = (await page.post("messages", {"text": "human please"})).json()
    store, at_s = ConversationStore(page.stage.connection), page.stage.gateway.clock()
    await store.change(
        BOT,
        first["session"],
        30,
        at_s,
        lambda now: replied(now, "It is oak.", "Ada", at_s).model_copy(update={"state": "bot"}),
    )
    asked = await page.say("And the lid?", first["session"])
    assert asked["chat"]
    await page.read(asked["chat"])
    shown = (await page.get(f"sessions/{first['session']}")).json()
    assert [turn["who"] for turn in shown["turns"]] == ["visitor", "person", "visitor", "bot"]
    assert shown["state"] == "bot"


async def test_outside_office_hours_the_visitor_is_asked_for_an_address(page: Page) -> None:
    hours = OfficeHours(days=(), away="We are back on Monday.")
    await change_widget(page, handover_webhook=None, handover=PeopleConfig(), office_hours=hours)
    assert (await page.get("config")).json()["away"] == "We are back on Monday."
    told = (await page.post("messages", {"text": "I want to talk to a human"})).json()
    assert (told["chat"], told["state"]) == (None, "bot")
    shown = (await page.get(f"sessions/{told['session']}")).json()
    assert [turn["text"] for turn in shown["turns"]] == ["I want to talk to a human", "We are back on Monday."]
    left = await page.post("handover", {"session": told["session"], "contact": "ada@example.com", "note": "A crack"})
    assert left.json()["state"] == "waiting"
    [found] = await ConversationIndex(page.stage.connection).open()
    assert found.conversation.contact == "ada@example.com"
    assert found.conversation.turns[-1].text == "A crack"


async def test_a_bot_with_a_webhook_only_goes_on_answering(page: Page) -> None:
    first = await page.say("Hello")
    await page.read(first["chat"])
    assert (await page.post("handover", {"session": first["session"], "contact": "ada@example.com"})).status_code == 202
    assert (await page.say("I want to talk to a human", first["session"]))["chat"]


def test_a_person_who_writes_has_the_conversation() -> None:
    assert replied(conversation(), "Hi", "Ada", NOW_S).state == "person"


async def test_metrics_say_who_waits_while_people_are_there(page: Page) -> None:
    async def waiting() -> dict[str, float]:
        text = (await page.http.get(f"{page.stage.url}/metrics")).text
        pairs = (line.split() for line in text.splitlines() if line.startswith("bunkhouse_visitors_waiting"))
        return {name.removeprefix("bunkhouse_visitors_"): float(value) for name, value in pairs}

    await change_widget(page, handover_webhook=None, handover=PeopleConfig())
    assert await waiting() == {"waiting": 0.0, "waiting_seconds": 0.0}
    await page.post("messages", {"text": "human please"})
    seen = await waiting()
    assert seen["waiting"] == 1
    assert 0 < seen["waiting_seconds"] < 60
    await change_widget(page, office_hours=OfficeHours(days=()))
    assert await waiting() == {"waiting": 0.0, "waiting_seconds": 0.0}, "nobody is there"


@pytest.mark.parametrize(
    ("opens", "closes", "now", "opened"),
    [
        ("09:00", "17:00", "2026-12-01T10:00", "2026-12-01T09:00"),
        ("22:00", "06:00", "2026-12-02T01:00", "2026-12-01T22:00"),
    ],
)
def test_when_people_came(opens: str, closes: str, now: str, opened: str) -> None:
    hours = OfficeHours(time_zone="Europe/Berlin", opens=opens, closes=closes)
    at_s, opened_s = (datetime.fromisoformat(f"{text}+01:00").timestamp() for text in (now, opened))
    assert hours.open_at(at_s)
    assert hours.opened_s(at_s) == opened_s
