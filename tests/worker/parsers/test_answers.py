"""Answers of all families, cut and continued everywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contracts.chats import OutputFormat, ToolFormat
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers import make_parser
from services.worker.parsers.base import ContentParser, Parsed
from tests.worker.parsers.answers import ANSWERS, CALLS, CHOICE, FAMILY, INSIDE, PLAIN, Answer, Seen, raw, seen

_NAMES = [f"{answer.template}: {answer.text[:40]!r}" for answer in ANSWERS]
_MARKS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<function=f>"),
    *("<parameter=p>", "</parameter>", "</function>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|start|>"),
    *("<|tool_call>", "<tool_call|>", "call:f{", '<|"|>', "<|channel>thought\n", "<channel|>", "[THINK]", "[/THINK]"),
    *('{"name": "time"', ', "arguments": ', '"parameters": ', "to=functions.f", '"', "{", "}", "[", "]", ",", ":"),
    *("\\", "\\u12", "\\ud83d", "\\ude00", " ", "\n", "assistant", "analysis", '{"tool_calls": [', '{"response": "'),
    *("weather", "<parameter=days>", "5", "true", "x" * 300),
]
TEXTS = st.lists(st.sampled_from(_MARKS) | st.text(max_size=8), max_size=24).map("".join)
WHO = st.tuples(
    st.sampled_from(sorted({answer.template for answer in ANSWERS})),
    st.sampled_from([FAMILY, INSIDE, PLAIN, CALLS, CHOICE]),
)


def _feed(answer: Answer, pieces: Sequence[str], written: str = "") -> list[Parsed]:
    parser = answer.parser(written)
    parts = [part for piece in pieces for part in parser.feed(piece, 1)]
    return [*parts, *parser.finish()]


def _chars(text: str) -> list[str]:
    return list(text)


@pytest.mark.parametrize("answer", ANSWERS, ids=_NAMES)
def test_readers_see_thoughts_calls_and_text_apart(answer: Answer) -> None:
    for pieces in (_chars(answer.text), [answer.text]):
        parts = _feed(answer, pieces)
        assert seen(parts) == answer.seen
        assert raw(parts) == answer.text
        assert sum(part.tokens for part in parts) == len(pieces)
    parser = answer.parser()
    parser.feed(answer.text, 1)
    parser.finish()
    assert answer.seen.called in (None, parser.called)


def _continued_everywhere(answer: Answer, pieces: Sequence[str]) -> None:
    """An attempt may break off behind any part that it wrote; the next is made with that and goes on."""
    whole = _feed(answer, pieces)
    for cut in range(1, len(whole)):
        written = raw(whole[:cut])
        rest = answer.text[len(written) :]
        assert seen([*whole[:cut], *_feed(answer, _chars(rest), written)]) == seen(whole)


@pytest.mark.parametrize("answer", ANSWERS, ids=_NAMES)
def test_a_retry_goes_on_where_it_was(answer: Answer) -> None:
    _continued_everywhere(answer, _chars(answer.text))


@given(WHO, TEXTS, st.randoms(use_true_random=False))
def test_any_text_in_any_pieces_is_read_alike_and_none_is_lost(
    who: tuple[str, OutputFormat], text: str, random: Random
) -> None:
    answer = Answer(who[0], text, Seen(), who[1])
    places = sorted(random.sample(range(len(text) + 1), min(len(text), random.randint(0, 12))))
    pieces = [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
    parts, in_one = _feed(answer, pieces), _feed(answer, [text])
    assert seen(parts) == seen(in_one) == seen(_feed(answer, _chars(text)))
    assert raw(parts) == raw(in_one) == text
    assert sum(part.tokens for part in parts) == len(pieces)
    _continued_everywhere(answer, pieces)


@given(st.sampled_from(ANSWERS), st.integers(0, 400), st.randoms(use_true_random=False))
def test_an_answer_may_end_anywhere(answer: Answer, length: int, random: Random) -> None:
    cut = replace(answer, text=answer.text[:length])
    pieces = _chars(cut.text) if random.random() < 0.5 else [cut.text]
    assert raw(_feed(cut, pieces)) == cut.text
    _continued_everywhere(cut, _chars(cut.text))


_LONG = [
    ("qwen3", "<think>" + "thought " * 130_000),
    ("qwen3", "a <b> [c] {d} " * 75_000),
    ("qwen3", " " * 1_000_000),
    ("qwen2_5", "<tool_call>" * 90_000),
    ("qwen2_5", '<tool_call>{"name": "' + '"' * 1_000_000),
    ("qwen2_5", '<tool_call>{"arguments": {"a": "' + "x" * 1_000_000),
    ("qwen2_5", '<tool_call>{"name": "time", "arguments": {"a": "' + "x\\n" * 330_000),
    ("llama3_1", "{" * 1_000_000),
    ("mistral_v11", "[TOOL_CALLS]a" * 80_000),
    ("qwen3_coder", "<function=weather><parameter=days>" + "</parameter> " * 77_000),
    ("qwen3_coder", "<function=weather><parameter=city>" + "</parameter>\n" * 77_000),
    ("gemma4", "<|tool_call>call:f{" + "a:[" * 330_000),
    ("gemma4", "<|tool_call>call:f{" + "a:" + "b" * 1_000_000),
    ("gpt_oss", "<|start|><|channel|>" * 50_000),
    ("chatml", '{"response": "' + "\\u00e4" * 166_000),
    ("chatml", '{"response": "' + "\\" * 1_000_001),
]


@pytest.mark.parametrize(("template", "text"), _LONG, ids=[text[:30] for _, text in _LONG])
def test_a_megabyte_takes_linear_time(template: str, text: str) -> None:
    answer = Answer(template, text, Seen(), CHOICE if template == "chatml" else FAMILY)
    began = time.process_time()
    parts = _feed(answer, [text[at : at + 40] for at in range(0, len(text), 40)])
    assert time.process_time() - began < 10  # half a second; it would be minutes
    assert sum(len(part.text if part.raw is None else part.raw) for part in parts) == len(text)


def test_json_of_a_schema_beside_tools_is_not_held_back() -> None:
    parts = Answer("chatml", "", Seen(), CHOICE).parser().feed('{"tall', 1)
    assert [part.text for part in parts] == ['{"tall']


def test_chats_without_tools_and_thoughts_have_no_machine() -> None:
    assert isinstance(make_parser(TemplateFamily(), PLAIN, "c", ""), ContentParser)
    assert isinstance(Answer("qwen2_5", "", Seen(), PLAIN).parser(), ContentParser)
    for output in (OutputFormat(json_schema="{}"), OutputFormat(plain=True)):
        assert isinstance(Answer("qwen3", "", Seen(), output).parser(), ContentParser)
    assert isinstance(Answer("chatml", "", Seen(), OutputFormat(tools=ToolFormat.FAMILY)).parser(), ContentParser)


def test_tokens_and_logprobs_stay_with_their_text() -> None:
    parser = Answer("qwen3", "", Seen()).parser()
    parts = [
        *parser.feed("<thi", 1, '["a"]'),
        *parser.feed("nk>Hm", 2, '["b"]'),
        *parser.feed("", 1, '["c"]'),
        *parser.feed("</think>H", 1, '["d"]'),
        *parser.feed("i <tool", 1, '["e"]'),
        *parser.feed("", 1),
        *parser.finish(),
    ]
    assert [(part.content, part.text, part.tokens, part.logprobs) for part in parts] == [
        ("reasoning", "Hm", 3, '["a","b"]'),
        ("reasoning", "", 1, '["c"]'),
        ("reasoning", "", 0, ""),
        ("content", "H", 1, '["d"]'),
        ("content", "i", 0, ""),
        ("content", " <tool", 2, '["e"]'),
    ]


@pytest.mark.parametrize(
    ("template", "thoughts", "output"),
    [
        ("qwen3", "<think>\nHm, <tool", FAMILY),
        ("qwq", "", INSIDE),
        ("qwq", "Hm </thi", INSIDE),
        ("gemma4", "<|channel>thought\nHm", PLAIN),
        ("mistral_v11", "[THINK]Hm", PLAIN),
        ("gpt_oss", "<|channel|>analysis<|message|>Hm", PLAIN),
    ],
)
def test_thoughts_can_be_ended_for_the_model(template: str, thoughts: str, output: OutputFormat) -> None:
    parser = Answer(template, "", Seen(), output).parser()
    parts = [*parser.feed(thoughts, 1)]
    parts += parser.feed(parser.end_of_thoughts, 1)
    assert raw(parts).startswith(thoughts)  # nothing is held back: a prompt may end here
    assert parser.end_of_thoughts == ""
    assert seen([*parts, *parser.feed("Yes", 1), *parser.finish()]).content == "Yes"


@pytest.mark.parametrize(("template", "text"), [("qwen3", ""), ("qwen3", "Hi"), ("chatml", "Hi"), ("gpt_oss", "")])
def test_there_may_be_no_thoughts_to_end(template: str, text: str) -> None:
    parser = Answer(template, "", Seen()).parser()
    parser.feed(text, 1)
    assert parser.end_of_thoughts == ""
