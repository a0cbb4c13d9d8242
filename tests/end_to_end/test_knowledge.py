"""The demo shop as it is, with the bundled model of 135 million parameters: right answers with sources, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from benchmarks.support.questions import pairs
from tests.host_process import HostProcess, run_host

SHOP = Path(__file__).parents[2] / "examples" / "widget" / "shop.yaml"
WIDGET = yaml.safe_load(SHOP.read_text())["tenants"]["alder-ash"]["bots"]["shop"]["widget"]
ANSWERS = {pair.question: pair.text for language in ("en", "de", "ja") for pair in pairs(language)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    with run_host(tmp_path_factory.mktemp("shop"), SHOP) as running:
        yield running


def test_suggested_questions_are_answered_rightly_in_the_widget(shop: HostProcess) -> None:
    with httpx.Client(base_url=shop.url, timeout=60) as http:
        page = http.get("/widget/demo").text
        token = page.partition('data-token="')[2].partition('"')[0]
        api, own = f"/widget/v1/{token}", {"origin": shop.url}
        for question in WIDGET["suggestions"]:
            asked = http.post(f"{api}/messages", json={"text": question}, headers=own).json()
            stream = http.get(f"{api}/chats/{asked['chat']}/stream", headers=own).text
            events = [orjson.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
            assert "".join(event.get("text", "") for event in events) == ANSWERS[question]
            assert events[-1]["sources"] == [{"title": question, "url": None}]
            turn = http.get(f"{api}/sessions/{asked['session']}", headers=own).json()["turns"][-1]
            assert turn["sources"] == events[-1]["sources"]


@pytest.mark.parametrize(
    ("question", "pair"),
    [
        ("Wie hoch sind die Versandkosten?", "Was kostet der Versand?"),
        ("配送は何日かかりますか", "いつ届きますか。"),
        ("Can I send my board back? I want to return it.", "How do I return something?"),
    ],
)
def test_questions_in_other_words_and_languages_are_answered_rightly(
    shop: HostProcess, question: str, pair: str
) -> None:
    assert answered(shop, question)["choices"][0]["message"]["content"] == ANSWERS[pair]


def test_an_unknown_question_is_declined(shop: HostProcess) -> None:
    answer = answered(shop, "How tall is the Eiffel tower?")
    assert answer["bunkhouse"]["missed"] is True
    assert answer["choices"][0]["message"]["content"].startswith("I am sorry, I do not know that.")


def answered(shop: HostProcess, question: str) -> dict[str, Any]:
    body = {"model": "shop", "messages": [{"role": "user", "content": question}], "temperature": 0}
    answer = httpx.post(f"{shop.url}/v1/chat/completions", json=body, headers=shop.headers("alder-ash"), timeout=60)
    found: dict[str, Any] = answer.json()
    return found
