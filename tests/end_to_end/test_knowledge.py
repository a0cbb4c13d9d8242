"""The demo shop as it is, with the bundled model of 135 million parameters: right answers with sources, or none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.support.questions import pairs
from services.cli.app import app
from tests.host_process import HostProcess, run_host

SHOP = Path(__file__).parents[2] / "examples" / "widget" / "shop.yaml"
WIDGET = yaml.safe_load(SHOP.read_text())["tenants"]["alder-ash"]["bots"]["shop"]["widget"]
ANSWERS = {pair.question: pair.text for language in ("en", "de", "ja") for pair in pairs(language)}


def a_minute() -> Iterator[None]:
    """Again and again, while an index is built."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        yield
        time.sleep(0.2)
    pytest.fail("it was not found within a minute")


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


def test_a_document_is_added_found_and_removed_from_the_command_line(
    shop: HostProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNKHOUSE__DATA_DIR", str(shop.data_dir))
    document = tmp_path / "vouchers.md"
    document.write_text("# Vouchers\n\nVouchers from 2019 are valid until the end of 2031.\n")

    def knowledge(*words: str) -> Any:
        done = CliRunner().invoke(app, ["knowledge", words[0], "alder-ash/shop", *words[1:], "--config", str(SHOP)])
        assert done.exit_code == 0, done.output
        return done.output

    added = knowledge("add", str(document), "--url", "https://shop.example/vouchers")
    name = added.split()[-1]
    for _ in a_minute():
        found = orjson.loads(knowledge("search", "Until when are vouchers of 2019 valid?", "--json"))
        if found and found[0]["source"] == name:
            break
    assert (found[0]["url"], found[0]["known"]) == ("https://shop.example/vouchers", True)
    assert [each["title"] for each in orjson.loads(knowledge("list", "--json"))] == ["vouchers.md"]
    knowledge("remove", name)
    assert "Nothing" in knowledge("list")


def test_the_command_line_names_what_is_wrong(
    shop: HostProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNKHOUSE__DATA_DIR", str(shop.data_dir))
    for words, code, says in (
        (["add", "alder-ash/shop", str(tmp_path / "none.md")], 2, "No such file"),
        (["list", "alder-ash/other"], 1, "other"),
        (["list", "alder-ash"], 2, "TENANT/BOT"),
        (["remove", "alder-ash/shop", "k-none"], 1, "k-none"),
    ):
        done = CliRunner().invoke(app, ["knowledge", *words, "--config", str(SHOP)])
        assert (done.exit_code, says in done.output) == (code, True), done.output
