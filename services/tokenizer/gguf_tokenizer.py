"""Builds a `tokenizers` BPE from GGUF metadata, with the pre-tokenizers of llama.cpp (src/llama-vocab.cpp).

Only families whose ids were compared with llama.cpp's own are built; for any other this returns None and
the caller falls back to an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS % r"\p{N}{1,3}"
_QWEN2 = _WORDS % r"\p{N}"

# tokenizer.ggml.pre -> the regular expressions that split the text, one after another
_SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "phi-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "starcoder": (r"\p{N}", _GPT2),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "deepseek-r1-qwen": (_QWEN2,),
}
_WHOLE_WORDS = {"llama3", "llama-v3", "llama-bpe"}  # a word that is a token is not merged up to it


def build_fast_tokenizer(metadata: Mapping[str, Any]) -> FastTokenizer | None:
    """The model's BPE, or None where the family is unknown. `metadata` must hold its arrays."""
    pre = metadata.get("tokenizer.ggml.pre")
    splits = _SPLITS.get(pre) if isinstance(pre, str) else None
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or splits is None or not tokens or not merges:
        return None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [_pair(merge) for merge in merges]
    bpe = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in _WHOLE_WORDS)
    fast = FastTokenizer(bpe)
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), behavior="isolated") for split in splits),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    types = metadata.get("tokenizer.ggml.token_type", ())
    fast.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, types, strict=False)
            if kind in {_CONTROL, _USER_DEFINED}
        ]
    )
    return fast


def gguf_control_tokens(metadata: Mapping[str, Any]) -> list[str]:
    """Tokens that are no text: what templates spell turns with, among others."""
    tokens, types = (metadata.get(f"tokenizer.ggml.{name}", ()) for name in ("tokens", "token_type"))
    return [token for token, kind in zip(tokens, types, strict=False) if kind == _CONTROL]


def gguf_special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and their like, as text, for the chat template."""
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    found = {}
    for name, key in {
        "bos_token": "bos",
        "eos_token": "eos",
        "unk_token": "unknown",
        "pad_token": "padding",
    }.items():
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            found[name] = tokens[number]
    return found


def _pair(merge: str) -> tuple[str, str]:
    """A merge is two pieces with one space between; the space of the text itself is spelled with a letter."""
    left, _, right = merge.partition(" ")
    return left, right
