"""What a visitor can do with an answer, and what bounds the visitor."""

from __future__ import annotations

from services.store.conversations import ConversationStore

from .conftest import BOT, Page, text_of
from .test_refusals import change_widget
from .test_talks import _settled


async def test_stop_keeps_what_was_written(page: Page) -> None:
    asked = await page.say("How do I care for my board?")
    first = await page.read(asked["chat"], texts_max=4)
    stopped = await page.post(f"chats/{asked['chat']}/stop", {"session": asked["session"]})
    assert stopped.status_code == 204
    whole = await page.read(asked["chat"])
    assert whole[-1]["data"]["finish"] == "cancelled"
    assert text_of(whole).startswith(text_of(first))
    assert "dishwasher" not in text_of(whole)
    talk = await _settled(page, asked["session"])
    assert talk["turns"][1]["finish"] == "cancelled"
    assert talk["turns"][1]["text"] == text_of(whole)
    assert (await page.post(f"chats/{asked['chat']}/stop", {"session": asked["session"]})).status_code == 204


async def test_only_its_own_conversation_stops_or_rates_an_answer(page: Page) -> None:
    asked = await page.say("How do I care for my board?")
    other = await page.say("How do I return something?")
    for path, body in ((f"chats/{asked['chat']}/stop", {}), ("ratings", {"chat": asked["chat"], "rating": "up"})):
        assert (await page.post(path, body | {"session": other["session"]})).status_code == 404
        assert (await page.post(path, body | {"session": "n" * 32})).status_code == 404
    assert "dishwasher" in text_of(await page.read(asked["chat"]))


async def test_an_answer_is_rated_and_the_rating_taken_back(page: Page) -> None:
    asked = await page.say("How do I return something?")
    body = {"session": asked["session"], "chat": asked["chat"], "rating": "down", "note": " wrong \n"}
    assert (await page.post("ratings", body)).status_code == 404  # it is still being written
    await page.read(asked["chat"])
    await _settled(page, asked["session"])
    assert (await page.post("ratings", body)).status_code == 204
    store = ConversationStore(page.stage.connection)
    talk = await store.read(BOT, asked["session"])
    assert talk is not None
    assert [(turn.rating, turn.rating_note) for turn in talk.turns] == [(None, ""), ("down", "wrong")]
    shown = (await page.get(f"sessions/{asked['session']}")).json()["turns"]
    assert [turn["rating"] for turn in shown] == [None, "down"]
    assert "rating_note" not in shown[1]
    assert (await page.post("ratings", body | {"rating": None})).status_code == 204
    talk = await store.read(BOT, asked["session"])
    assert talk is not None
    assert (talk.turns[1].rating, talk.turns[1].rating_note) == (None, "")
    assert (await page.post("ratings", body | {"rating": "meh"})).status_code == 400


async def test_a_visitors_messages_of_a_day_are_bounded(page: Page) -> None:
    await change_widget(page, messages_per_day=2)
    for _ in range(2):
        await page.say("How do I return something?")
    refused = await page.post("messages", {"text": "Once more."})
    assert refused.status_code == 429
    assert refused.json()["error"]["param"] == "messages_per_day"
    assert int(refused.headers["retry-after"]) > 0


async def test_a_bot_that_is_switched_off_says_so(page: Page) -> None:
    await change_widget(page, off={"en": "Back on Monday.", "ja": "月曜日に再開します。"})
    assert (await page.get("config?language=ja")).json()["off"] == "月曜日に再開します。"
    refused = await page.post("messages", {"text": "Hello?", "language": "ja"})
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "月曜日に再開します。"
    assert refused.json()["error"]["param"] == "off"


async def test_the_widgets_language(page: Page) -> None:
    greetings = {"en": "Hello!", "de": "Guten Tag!", "zh": "您好！"}
    await change_widget(page, greeting=greetings, title="Alder & Ash")

    async def greeted(query: str = "", accept: str = "") -> tuple[str, str]:
        config = (await page.get(f"config{query}", **{"accept-language": accept})).json()
        assert config["title"] == "Alder & Ash"
        return config["language"], config["greeting"]

    assert await greeted() == ("en", "Hello!")
    assert await greeted(accept="nl, zh-Hant-TW;q=0.8, de-CH;q=0.9, en;q=0.1") == ("de", "Guten Tag!")
    assert await greeted(accept="de;q=x, ,;q=, zh;q=0.5, fr;q=0") == ("zh", "您好！")
    assert await greeted("?language=ja", "de") == ("ja", "Hello!")
    assert await greeted("?language=xx", "de") == ("de", "Guten Tag!")
    await change_widget(page, greeting={"fr": "Bonjour !"}, language="es")
    assert await greeted(accept="de") == ("es", "Bonjour !")
    assert await greeted("?language=de-AT", "fr") == ("de", "Bonjour !")
