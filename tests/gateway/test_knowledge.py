"""A bot's knowledge in its prompts: what the model reads, what a client gets beside the answer, what is not known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.knowledge import catalog
from gateway.knowledge.program import ProgramFailed, build_index
from gateway.knowledge.words import small_talk
from services.config.knowledge import KnowledgeConfig
from services.config.schema import BotConfig
from services.contracts.knowledge import Passage
from services.store.knowledge import KnowledgeSource, KnowledgeStore
from services.store.registry import Registry
from services.tokenizer.tokenizer import Tokenizer
from tests.gateway.conftest import GLOBEX, Host, HostFactory
from tests.gateway.driver import until

FAQ = [
    {"q": "How do I return something?", "a": "You have 60 days."},
    {"q": "What does delivery cost?", "a": "4.90 EUR in Germany."},
    {"q": "送料はいくらですか。", "a": "4.90ユーロです。"},
]


@pytest.fixture
async def host(hosts: HostFactory, tmp_path: Path) -> AsyncIterator[Host]:
    async with hosts(data_dir=tmp_path) as made:
        yield made


async def know(host: Host, **settings: Any) -> None:
    """The bot acme/support gets a `knowledge` section, and its index is there."""
    knowledge = KnowledgeConfig.model_validate({"faq": FAQ, **settings})

    def change(registry: Registry) -> Registry:
        record = registry.tenants["acme"]
        bots = {**record.config.bots, "support": BotConfig(model="small", system="You help.", knowledge=knowledge)}
        config = record.config.model_copy(update={"bots": bots})
        return registry.model_copy(
            update={"tenants": {**registry.tenants, "acme": record.model_copy(update={"config": config})}}
        )

    await host.change(change)
    await until(lambda: (host.state.directory.registry.bot("acme", "support") or BotConfig(model="x")).knowledge)
    await host.state.knowledge.look()


async def ask(host: Host, text: str, *before: str, **more: Any) -> Any:
    said = [{"role": ("user", "assistant")[at % 2], "content": words} for at, words in enumerate((*before, text))]
    answer = await host.ask({"model": "support", "messages": said, **more})
    assert answer.status_code == 200, answer.text
    return answer


def prompt(host: Host, tokenizer: Tokenizer) -> str:
    """What the last chat's model read."""
    content = host.driver.claims[-1].payload.prompt
    return content if isinstance(content, str) else tokenizer.decode(content)


async def test_pairs_are_turns_before_the_last_question_and_come_with_the_answer(
    host: Host, tokenizer: Tokenizer
) -> None:
    await know(host, pinned_tokens_max=0)
    answer = await ask(host, "Can I send it back?", "Hello!", "Hi.")
    read = prompt(host, tokenizer)
    assert read.index("You help.") < read.index("Hi.") < read.index("You have 60 days.") < read.index("send it back?")
    assert "4.90 EUR" not in read
    cited = answer.json()["choices"][0]["message"]["annotations"]
    assert cited[0]["type"] == "url_citation"
    assert cited[0]["url_citation"]["title"] == "How do I return something?"


async def test_a_stream_ends_with_its_sources(host: Host) -> None:
    await know(host)
    answer = await ask(host, "How can I return a spoon?", stream=True)
    chunks = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["choices"][0]["delta"]["annotations"][0]["url_citation"]["title"] == "How do I return something?"


async def test_what_every_prompt_begins_with_stays_the_same(host: Host, tokenizer: Tokenizer) -> None:
    await know(host)
    prompts = []
    for text in ("How do I return it?", "How much is shipping?"):
        await ask(host, text)
        prompts.append(prompt(host, tokenizer))
    alike = next(at for at, (one, other) in enumerate(zip(*prompts, strict=False)) if one != other)
    assert alike > prompts[0].index("4.90ユーロです。")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Who is the king of France?", "I am sorry, I do not know that. Would you like to talk to a person?"),
        ("Wer hat die Firma gegründet?", "Das weiß ich leider nicht. Möchten Sie mit einem Menschen sprechen?"),
        ("明日の天気はどうですか", "申し訳ありませんが、わかりません。担当者におつなぎしましょうか。"),
    ],
)
async def test_an_unknown_question_is_answered_so_in_its_language(host: Host, text: str, words: str) -> None:
    await know(host)
    answer = await ask(host, text)
    held = orjson.loads(host.driver.claims[-1].payload.output.json_schema)
    assert held["properties"]["response"] == {"const": words}
    assert answer.json()["bunkhouse"]["missed"] is True
    assert "annotations" not in answer.json()["choices"][0]["message"]


async def test_a_pair_can_be_answered_word_for_word(host: Host) -> None:
    await know(host, verbatim=True)
    await ask(host, "Can I send it back?")
    held = orjson.loads(host.driver.claims[-1].payload.output.json_schema)
    assert held["properties"]["response"] == {"const": "You have 60 days."}


@pytest.mark.parametrize("text", ["Hi!", "Thank you very much", "I want to talk to a human", "はい", "Nein danke"])
async def test_small_talk_is_no_unknown_question(host: Host, text: str) -> None:
    await know(host)
    answer = await ask(host, text)
    assert not host.driver.claims[-1].payload.output.json_schema
    assert "missed" not in answer.json()["bunkhouse"]


def test_questions_are_no_small_talk() -> None:
    for text in (
        "Hi, when is my order coming?",
        "Thanks, and what does delivery cost?",
        "Is the board good?",
        "返品は？",
    ):
        assert small_talk(text) is None


async def test_a_short_question_is_read_with_the_one_before(host: Host, tokenizer: Tokenizer) -> None:
    await know(host, pinned_tokens_max=0)
    await ask(host, "And in Austria?", "What does delivery cost?", "4.90 EUR in Germany.")
    assert not host.driver.claims[-1].payload.output.json_schema


async def test_what_is_added_is_found_from_then_on_and_by_this_bot_alone(host: Host, tokenizer: Tokenizer) -> None:
    await know(host)
    store = KnowledgeStore(host.connection)
    source = KnowledgeSource(id="k-1", kind="document", title="Care", added_s=1.0, passages=1, chars=30)
    passage = Passage("Care: oil", "Use linseed oil on boards.", url="https://shop.example/care", source="k-1")
    await store.add("acme/support", source, [passage])

    async def annotated() -> Any:
        answer = await ask(host, "Which oil is for boards?")
        return answer.json()["choices"][0]["message"].get("annotations")

    async with asyncio.timeout(15):
        while not (cited := await annotated()):  # each ask takes some milliseconds
            pass
    assert cited[0]["url_citation"]["url"] == "https://shop.example/care"
    assert "Use linseed oil on boards." in prompt(host, tokenizer)
    other = await host.ask(
        {"model": "returns", "messages": [{"role": "user", "content": "Which oil is for boards?"}]}, GLOBEX
    )
    assert other.status_code == 200
    assert "linseed" not in prompt(host, tokenizer)


async def test_a_client_that_constrains_its_answer_is_left_alone(host: Host) -> None:
    await know(host)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    await ask(host, "Who is the king of France?", response_format=form)
    assert "do not know" not in host.driver.claims[-1].payload.output.json_schema


async def test_a_question_waits_for_its_bots_index_and_ready_says_why(
    hosts: HostFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was answered without knowledge after 3 s, and /ready knew nothing of it."""
    built = HeldBuilds(monkeypatch)
    async with hosts(data_dir=tmp_path, knowledge={"support": {"faq": FAQ}, "hasty": {"faq": FAQ}}) as host:
        answer = await host.http.get(f"{host.url}/ready")
        assert (answer.status_code, answer.json()["missing"]) == (503, ["knowledge"])
        assert answer.json()["knowledge"] == {"built": 0, "building": 2, "failed": 0}
        asked = asyncio.create_task(ask(host, "How can I return a spoon?"))
        late = await host.ask({"model": "hasty", "messages": [{"role": "user", "content": "How can I return it?"}]})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "knowledge_not_ready")
        assert not host.driver.claims
        built.go.set()
        cited = (await asked).json()["choices"][0]["message"]["annotations"]
        assert cited[0]["url_citation"]["title"] == "How do I return something?"
        await until(lambda: host.state.knowledge.counts().built == 2)
        assert (await host.http.get(f"{host.url}/ready")).status_code == 200


async def test_a_bot_without_an_index_refuses_questions_and_leaves_others_ready(
    hosts: HostFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = HeldBuilds(monkeypatch, fails=True)
    built.go.set()
    async with hosts(data_dir=tmp_path, knowledge={"support": {"faq": FAQ}}) as host:
        await until(lambda: host.state.knowledge.counts().failed)
        answer = await host.http.get(f"{host.url}/ready")
        assert (answer.status_code, answer.json()["knowledge"]["failed"]) == (200, 1)
        refused = await host.ask({"model": "support", "messages": [{"role": "user", "content": "How can I return?"}]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "knowledge_not_ready")
        assert "could not be built" in refused.json()["error"]["message"]


async def test_a_small_index_does_not_wait_behind_large_ones(
    hosts: HostFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.txt"
    large.write_text("Boards are made of oak.\n" * 20_000)
    HeldBuilds(monkeypatch, files_only=True)
    known = {"support": {"documents": [str(large)]}, "tiny": {"documents": [str(large)]}, "raw": {"faq": FAQ}}
    async with hosts(data_dir=tmp_path, knowledge=known) as host:
        await until(lambda: host.state.knowledge.counts().built == 1)
        answer = await host.ask({"model": "raw", "messages": [{"role": "user", "content": "How can I return it?"}]})
        assert answer.json()["choices"][0]["message"]["annotations"]


class HeldBuilds:
    """Indexes are built when `go` is set; those without files at once if `files_only`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False, files_only: bool = False) -> None:
        self.go = asyncio.Event()

        async def held(path: Path, passages: Sequence[Passage], files: Sequence[Path]) -> None:
            if files or not files_only:
                await self.go.wait()
            if fails:
                raise ProgramFailed("the disk is full")
            await build_index(path, passages, files)

        monkeypatch.setattr(catalog, "build_index", held)
