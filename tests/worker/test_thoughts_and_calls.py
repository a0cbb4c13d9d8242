"""Thoughts and tool calls of a real model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from services.contracts.chats import OutputFormat, ToolFormat
from services.contracts.replies import ContentKind, Finish, ReplyEntry
from services.model_files.weights import resolve
from services.tokenizer.tokenizer import load_tokenizer
from tests.chat_templates import TEMPLATES
from tests.worker.conftest import WEIGHTS, Bunk, pauses, running
from tests.worker.parsers.answers import Seen, seen

QUESTION = "Tell me a long story about a fox."
CLOSING = "\n</think>\n\n"


@pytest.fixture
def thinker(bunk: Bunk, tmp_path: Path) -> Bunk:
    """A worker's model has QwQ's template; it never ends its thoughts by itself."""
    template = tmp_path / "qwq.jinja"
    template.write_text(TEMPLATES["qwq"])
    bunk.tokenizer = load_tokenizer(resolve(WEIGHTS), template)
    return bunk


def _text(entries: Sequence[ReplyEntry], kind: ContentKind) -> str:
    return "".join(entry.text for entry in entries if entry.content is kind)


def _tokens(entries: Sequence[ReplyEntry], kind: ContentKind) -> int:
    return sum(entry.tokens for entry in entries if entry.content is kind)


def _check(bunk: Bunk, entries: Sequence[ReplyEntry], thoughts: int) -> None:
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert end.finish is Finish.LENGTH
    closing = bunk.tokenizer.count(CLOSING)
    assert _tokens(entries, ContentKind.REASONING) == end.usage.reasoning_tokens == thoughts + closing
    assert end.usage.completion_tokens == sum(entry.tokens for entry in entries) == 32
    assert _text(entries, ContentKind.CONTENT).strip()
    assert "</think>" not in "".join(entry.text for entry in entries)


async def test_thoughts_end_at_their_most_tokens_and_the_answer_follows(thinker: Bunk) -> None:
    worker = thinker.worker()
    async with running(worker):
        endless = await thinker.submit(QUESTION, output=OutputFormat(thinking=True))
        assert {entry.content for entry in await thinker.entries(endless.chat) if entry.tokens} == {
            ContentKind.REASONING
        }
        chat = await thinker.submit(QUESTION, output=OutputFormat(thinking=True, thinking_tokens_max=8))
        entries = await thinker.entries(chat.chat)
        written = await worker._context.work.written(chat.chat)
    _check(thinker, entries, 8)
    thoughts, answer = written.text.split(CLOSING)
    assert _text(entries, ContentKind.REASONING) == thoughts.strip()
    assert _text(entries, ContentKind.CONTENT) == answer


async def test_thoughts_are_not_ended_where_no_answer_could_follow(thinker: Bunk) -> None:
    async with running(thinker.worker()):
        output = OutputFormat(thinking=True, thinking_tokens_max=8)
        entries = await thinker.entries((await thinker.submit(QUESTION, max_tokens=10, output=output)).chat)
    end = entries[-1].end
    assert end is not None
    assert end.finish is Finish.LENGTH
    assert _tokens(entries, ContentKind.REASONING) == 10


@pytest.mark.parametrize("after", [6, 20])
async def test_an_engine_may_die_before_and_behind_the_end_of_thoughts(thinker: Bunk, after: int) -> None:
    worker = thinker.worker()
    output = OutputFormat(thinking=True, thinking_tokens_max=8)
    async with running(worker):
        whole = await thinker.entries((await thinker.submit(QUESTION, output=output)).chat)
        stopped, go_on = pauses(worker, after if after < 8 else after - 8)
        chat = await thinker.submit(QUESTION, output=output)
        await stopped.wait()
        thinker.engine_process().kill()
        go_on.set()
        entries = await thinker.entries(chat.chat)
    _check(thinker, entries, 8)
    for kind in ContentKind:
        assert _text(entries, kind) == _text(whole, kind)


def _example(city: str) -> str:
    return (
        f"<|im_start|>user\nWeather in {city} for 3 days?<|im_end|>\n<|im_start|>assistant\n"
        f"<think>\nThe user asks for {city}.\n</think>\n\nI look.\n<tool_call>\n"
        f'{{"name": "weather", "arguments": {{"city": "{city}", "days": 3}}}}\n</tool_call><|im_end|>\n'
    )


# A small model calls tools where it only has to go on as in examples.
EXAMPLES = (
    "{% if tools %}{% endif %}"
    + "".join(map(_example, ("Rome", "Bonn")))
    + "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    + "<|im_start|>assistant\n"
)


async def test_an_engine_may_die_in_thoughts_text_and_calls(bunk: Bunk, tmp_path: Path) -> None:
    template = tmp_path / "examples.jinja"
    template.write_text(EXAMPLES)
    bunk.tokenizer = load_tokenizer(resolve(WEIGHTS), template)
    worker = bunk.worker()
    async with running(worker):
        stopped, go_on = pauses(worker, 8)  # pieces
        output = OutputFormat(tools=ToolFormat.FAMILY)
        chat = await bunk.submit("Weather in London for 3 days?", max_tokens=64, output=output)
        for pieces in (28, None):
            await stopped.wait()
            bunk.engine_process().kill()
            go_on.set()
            if pieces is not None:
                stopped, go_on = pauses(worker, pieces)
        entries = await bunk.entries(chat.chat)
    parts = [entry for entry in entries if entry.kind == "text"]
    calls = (("weather", '{"city": "London", "days": 3}'),)
    assert seen(parts, chat.chat) == Seen("I look.", calls, "The user asks for London.")
    attempts = {part.content: part.id.partition("-")[0] for part in parts}  # the last of each kind
    assert attempts == {ContentKind.REASONING: "2", ContentKind.CONTENT: "2", ContentKind.TOOL_CALL: "3"}
    end = entries[-1].end
    assert end is not None
    assert end.usage is not None
    assert end.finish is Finish.TOOL_CALLS
    assert end.usage.completion_tokens == sum(part.tokens for part in parts)
    assert end.usage.reasoning_tokens == _tokens(parts, ContentKind.REASONING)
