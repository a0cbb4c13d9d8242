"""Builds `tokenizers` models from GGUF metadata, with the pre-tokenizers of llama.cpp (src/llama-vocab.cpp).

`exact_tokenizer` gives the engine's own ids, for BPE families that were compared with llama.cpp's. `counting_tokenizer`
is for all others with a BPE or a SentencePiece vocabulary: its counts are those of llama.cpp but for a few tokens, and
its ids are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # tokenizer.ggml.token_type
_SPACE = "\u2581"  # how SentencePiece spells a space

SENTENCE_PIECE = ("llama", "gemma4")  # tokenizer.ggml.model

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORDS = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?%s|%s| ?[^\s%s\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS % (r"\p{L}+", r"\p{N}{1,3}", r"\p{L}")
_QWEN2 = _WORDS % (r"\p{L}+", r"\p{N}", r"\p{L}")
_QWEN35 = _WORDS % (r"[\p{L}\p{M}]+", r"\p{N}", r"\p{L}\p{M}")
# Letters that are not small, letters that are not capital: llama.cpp knows the case of ASCII letters only.
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = _CASED % (_CONTRACTION + "?", _CONTRACTION + "?", r"\p{N}{1,3}")
_TEKKEN = _CASED % ("", "", r"\p{N}")
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")


@dataclass(frozen=True, slots=True)
class _Family:
    """How llama.cpp treats vocabularies of one kind."""

    splits: tuple[str, ...]  # regular expressions that split the text, one after another
    whole_words: bool = False  # a word that is a token is not merged up to it
    adds_bos: bool = False  # where the file does not say


_BY_SPLIT = {
    "gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion exaone4 granite-docling": _Family((_GPT2,)),
    "smollm starcoder refact command-r codeshell exaone minerva-7b": _Family((r"\p{N}", _GPT2)),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2": _Family((_LLAMA3,), True, True),
    "dbrx smaug-bpe glm4 chatglm-bpe": _Family((_LLAMA3,)),
    "qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2": _Family((_QWEN2,)),
    "qwen35": _Family((_QWEN35,)),
    "deepseek-v3 hunyuan-dense joyai-llm": _Family(_DEEPSEEK3),
    "gpt-4o llama4 kanana2 minimax-m2": _Family((_GPT4O,)),
    "tekken": _Family((_TEKKEN,), True, True),
    "bailingmoe bailingmoe2 llada-moe": _Family((_BAILING,)),
    "seed-coder": _Family((_SEED,)),
    "default": _Family(_DEFAULT),
}
_FAMILIES = {name: family for names, family in _BY_SPLIT.items() for name in names.split()}  # by tokenizer.ggml.pre
_UNKNOWN = _Family((_LLAMA3,))  # close to what most of today's vocabularies are made with


def exact_tokenizer(metadata: Mapping[str, Any]) -> FastTokenizer | None:
    """The model's BPE, or None where the family is unknown. `metadata` must hold its arrays."""
    family = _FAMILIES.get(str(metadata.get("tokenizer.ggml.pre", "default")))
    return None if family is None else _byte_level(metadata, family)


def counting_tokenizer(metadata: Mapping[str, Any]) -> FastTokenizer | None:
    """What counts the tokens of a model without an exact one, or None where its vocabulary is of another sort."""
    if metadata.get("tokenizer.ggml.model") in SENTENCE_PIECE:
        return _sentence_piece(metadata)
    return _byte_level(metadata, _UNKNOWN)


def gguf_adds_bos(metadata: Mapping[str, Any]) -> bool:
    """Whether llama.cpp puts a BOS before every prompt that is text."""
    family = _FAMILIES.get(str(metadata.get("tokenizer.ggml.pre", "default")), _UNKNOWN)
    default = family.adds_bos or metadata.get("tokenizer.ggml.model") in SENTENCE_PIECE
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default))


def _byte_level(metadata: Mapping[str, Any], family: _Family) -> FastTokenizer | None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or not tokens or not merges:
        return None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    fast = FastTokenizer(
        models.BPE(vocab=vocabulary, merges=[_pair(merge) for merge in merges], ignore_merges=family.whole_words)
    )
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), behavior="isolated") for split in family.splits),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    _add_special(fast, metadata)
    fast.decoder = decoders.ByteLevel()
    return fast


def _sentence_piece(metadata: Mapping[str, Any]) -> FastTokenizer | None:
    """A BPE whose merges have the order of the tokens' scores, with a token for each byte that no other covers."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        return None
    given = metadata.get("tokenizer.ggml.merges")
    merges = [_pair(merge) for merge in given] if given else list(_merges(metadata, tokens))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=False))
    prefix = [normalizers.Prepend(_SPACE)] if metadata.get("tokenizer.ggml.add_space_prefix", not given) else []
    fast.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    _add_special(fast, metadata)
    return fast


def _merges(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """All pairs of tokens that make a third one, by its score."""
    scores = metadata.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    known = {token for token, kind in zip(tokens, types, strict=False) if kind == _NORMAL}
    for number in sorted(range(len(tokens)), key=lambda number: -scores[number]):
        token = tokens[number]
        if types[number] == _NORMAL:
            for cut in range(1, len(token)):
                if token[:cut] in known and token[cut:] in known:
                    yield token[:cut], token[cut:]


def _add_special(fast: FastTokenizer, metadata: Mapping[str, Any]) -> None:
    tokens, types = (metadata.get(f"tokenizer.ggml.{name}", ()) for name in ("tokens", "token_type"))
    fast.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, types, strict=False)
            if kind in {_CONTROL, _USER_DEFINED}
        ]
    )


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
