"""Topics that a bot refuses: answered with the refusal's text, without actions; what only sounds alike is answered."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.knowledge.refusals import refusal_of
from gateway.request import ChatRequest
from services.config.schema import BotConfig
from services.store.registry import Registry

from .conftest import Host
from .test_actions import Shop, action, shop

__all__ = ["shop"]

TOPICS: dict[str, Any] = {
    "politics": {
        "phrases": [
            "Who should I vote for?",
            "What do you think of the government?",
            "political party",
            "Wen soll ich wählen?",
            "Was hältst du von der Regierung?",
            "politische Partei",
            "どの政党に投票すべきですか",
            "政治",
        ]
    },
    "health": {
        "phrases": ["Which medicine should I take?", "Kopfschmerzen", "Arzneimittel", "薬を飲んでもいいですか", "頭痛"],
        "says": {"en": "Please ask a doctor.", "de": "Bitte fragen Sie einen Arzt."},
    },
    "money": {
        "phrases": ["Should I buy shares?", "bitcoin", "Aktien kaufen", "Kryptowährung", "株を買う"],
        "says": "No.",
    },
}
BOT = BotConfig.model_validate({"model": "small", "refuses": TOPICS})


def refusal(text: str, **more: Any) -> str | None:
    request = ChatRequest.model_validate({"model": "support", "messages": [{"role": "user", "content": text}], **more})
    return refusal_of(BOT, request)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Who should I vote for in the election?", "I am sorry, I cannot talk about that."),
        ("Hey, what do you think about the government these days?", "I am sorry"),
        ("Which political parties are good?", "I am sorry"),
        ("Wen soll ich bei der Bundestagswahl wählen?", "Darüber kann ich leider nicht sprechen."),
        ("Welche politischen Parteien sind gut?", "Darüber"),
        ("今の政治についてどう思いますか", "申し訳ありませんが、その話題にはお答えできません。"),
        ("どの政党に投票すべき？", "申し訳"),
        ("What medicine should I take for a headache?", "Please ask a doctor."),
        ("Was hilft mir gegen die Kopfschmerzen?", "Bitte fragen Sie einen Arzt."),
        ("頭痛に効く薬はありますか", "Please ask a doctor."),
        ("Soll ich jetzt Aktienfonds kaufen?", "No."),
        ("Nehmen Sie Kryptowährungen?", "No."),
        ("今、株を買うべき？", "No."),
    ],
)
def test_a_refused_topic_is_refused_in_the_questions_language(text: str, words: str) -> None:
    assert (refusal(text) or "").startswith(words)


@pytest.mark.parametrize(
    "text",
    [
        "Which board should I choose?",
        "What do you think of the walnut oil?",
        "Do you have a party platter?",
        "Welches Brett soll ich wählen?",
        "Kann ich die Farbe wählen?",
        "Welche Partyplatten haben Sie?",
        "パーティー用の皿はありますか",
        "政府機関の注文はできますか",
        "Which oil should I take?",
        "Wird das Brett Risse bekommen?",
        "薬味皿はありますか",
        "頭皮用のブラシはありますか",
        "Should I buy the large board?",
        "Gibt es eine Aktion, kann ich jetzt kaufen?",
        "Can I share a picture of it?",
        "株式会社ですか",
        "?!",
    ],
)
def test_what_only_sounds_alike_is_answered(text: str) -> None:
    assert refusal(text) is None


def test_a_request_whose_client_constrains_the_answer_is_left_as_it_is() -> None:
    assert refusal("Is bitcoin good?")
    assert refusal("Is bitcoin good?", response_format={"type": "json_object"}) is None


async def give(host: Host, **bot: Any) -> None:
    def change(registry: Registry) -> Registry:
        record = registry.tenants["acme"]
        made = BotConfig.model_validate({"model": "small", "system": "You help.", **bot})
        config = record.config.model_copy(update={"bots": {**record.config.bots, "support": made}})
        fresh = record.model_copy(update={"config": config})
        return registry.model_copy(update={"tenants": {**registry.tenants, "acme": fresh}})

    await host.change(change)
    await host.state.directory.reload()


async def test_it_is_refused_before_actions_and_model_and_counts_as_answered(host: Host, shop: str) -> None:
    await give(host, refuses=TOPICS, actions={"look_up": action(shop, whenever_mentioned=True)})
    asked = {"model": "support", "messages": [{"role": "user", "content": "Should I buy bitcoin with order 4711?"}]}
    answer = await host.ask(asked)
    assert answer.status_code == 200, answer.text
    held = orjson.loads(host.driver.claims[-1].payload.output.json_schema)
    assert held["properties"]["response"] == {"const": "No."}
    assert "missed" not in answer.json()["bunkhouse"]
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert not Shop.seen
    assert len(host.driver.tickets) == 1
