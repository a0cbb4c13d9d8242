"""Thoughts of a real model, whose template ends the prompt inside of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind, Finish, ReplyEntry
from services.model_files.weights import resolve
from services.tokenizer.tokenizer import load_tokenizer
from tests.chat_templates import TEMPLATES
from tests.worker.conftest import WEIGHTS, Bunk, pauses, running

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
