"""Tokenizers for the gateway and the workers: token counts, token ids and the chat template.

`load_tokenizer` reads either a GGUF file's own metadata or a Hugging Face folder. Where the family is known the ids
equal the engine's own and `exact` is true. Else prompts go to the engine as text, and `count` comes from a tokenizer
built of the same vocabulary, or, where that is of an unknown sort, is an upper bound: a token is at least one byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from services.tokenizer.chat_template import CHATML, ChatTemplate, TemplateRejected, breaker
from services.tokenizer.gguf_tokenizer import (
    counting_tokenizer,
    exact_tokenizer,
    gguf_adds_bos,
    gguf_control_tokens,
    gguf_special_tokens,
)
from services.tokenizer.template_family import family_of

_JSON_BYTES_MAX = 64 << 20


class TokenizerError(ValueError):
    """No tokenizer there, or one that cannot be read. The message names the file."""


class Tokenizer:
    """One model's tokenizer and chat template. Encodes about 1 MB of text a second.

    `harmless` breaks the control tokens in a text, so that no message can end its turn and speak as somebody else.
    `family` is how the chat template spells tool calls and thoughts. `special_markers` are those of its markers that an
    engine drops from its text, unless EngineRequest.special names them.
    """

    def __init__(
        self,
        fast: FastTokenizer | None,
        template: ChatTemplate | None,
        bos: str | None,
        source: Path,
        control: Iterable[str] = (),
        *,
        counting: FastTokenizer | None = None,
    ) -> None:
        control = frozenset(control)
        self.harmless = breaker(control)
        self.family = family_of("" if template is None else template.source)
        self.special_markers = tuple(marker for marker in self.family.markers if marker in control)
        self._fast = fast
        self._counting = fast or counting
        self._template = template
        self._bos = bos  # what the engine would put before every prompt that is text
        self._source = source
        self._special: re.Pattern[str] | None = None  # made when it is asked for

    @property
    def exact(self) -> bool:
        """Whether `encode` gives the engine's own ids."""
        return self._fast is not None

    @property
    def vocabulary(self) -> int | None:
        """Number of ids, added tokens included; None where the family is unknown."""
        return None if self._fast is None else self._fast.get_vocab_size()

    @property
    def template_source(self) -> str:
        """The chat template as the model brings it; "" where it brings none."""
        return "" if self._template is None else self._template.source

    @property
    def takes_tools(self) -> bool:
        """Whether the template shows tools, calls and results, and a parser knows how it spells calls."""
        return self.family.takes_tools and self._template is not None and self._template.calls is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens spelled out in it are parsed as such.

        Raises TokenizerError when not `exact`.
        """
        if self._fast is None:
            raise TokenizerError(f"{self._source}: this tokenizer family is unknown; send text")
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def last_special_end(self, text: str) -> int:
        """Where the last special token in `text` ends: what comes after it does not change the ids before. 0: none.

        Tokens that take in the spaces around them do not count.
        """
        if self._special is None:
            tokens = self._fast.get_added_tokens_decoder().values() if self._fast is not None else ()
            words = [t.content for t in tokens if not (t.lstrip or t.rstrip or t.single_word or t.normalized)]
            words.sort(key=len, reverse=True)
            self._special = re.compile("|".join(map(re.escape, words)) or r"(?!)")
        return max((found.end() for found in self._special.finditer(text)), default=0)

    def prompt(self, text: str) -> list[int] | str:
        """What EngineRequest.prompt takes for a rendered conversation: ids where exact, else the text."""
        return self.encode(text) if self.exact else text.removeprefix(self._bos or "")

    def raw_prompt(self, text: str, *, special: bool = True) -> list[int] | str:
        """What EngineRequest.prompt takes for a text that no template rendered: ids where exact, else the text.

        `special`: with what the model wants before every text, such as BOS. Where it is not exact, the engine adds it.
        """
        if self._fast is None:
            return text
        if special and self._bos is not None and not text.startswith(self._bos):
            text = self._bos + text
        ids: list[int] = self._fast.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included. Raises TokenizerError when not `exact`."""
        if self._fast is None:
            raise TokenizerError(f"{self._source}: this tokenizer family is unknown; send text")
        return self._fast.decode(list(ids), skip_special_tokens=False)

    def count(self, text: str) -> int:
        """Tokens of `text`. When not `exact`, near the engine's own count, or an upper bound."""
        if self._counting is None:
            return len(text.encode(errors="replace")) + 2
        return len(self._counting.encode(text, add_special_tokens=False).ids)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: object
    ) -> str:
        """The conversation as the model's template spells it, with exactly one BOS where the model wants one.

        Raises TemplateRejected when the template refuses these messages (roles out of order, say), and
        TokenizerError when the model brings no template.
        """
        if self._template is None:
            raise TokenizerError(f"{self._source}: the model brings no chat template")
        text = self._template.render(messages, add_generation_prompt, variables)
        return text if self._bos is None or text.startswith(self._bos) else self._bos + text


def load_tokenizer(weights_path: Path | str, template_path: Path | None = None) -> Tokenizer:
    """From a GGUF file or a Hugging Face folder. Takes about 0.2 s. Raises TokenizerError.

    `template_path` is a file with a chat template that is used instead of the model's own.
    """
    path = Path(weights_path)
    try:
        template = None if template_path is None else template_path.read_text(encoding="utf-8")
        return _from_folder(path, template) if path.is_dir() else _from_gguf(path, template)
    except (OSError, UnicodeDecodeError, TemplateRejected) as error:
        raise TokenizerError(f"{template_path or path}: {error}") from error


def _from_gguf(path: Path, template_source: str | None) -> Tokenizer:
    from services.model_files.gguf import GgufError, read_gguf  # noqa: PLC0415

    try:
        metadata = read_gguf(path, arrays_max=10_000_000).metadata
    except GgufError as error:
        raise TokenizerError(str(error)) from error
    special = gguf_special_tokens(metadata)
    source = template_source or metadata.get("tokenizer.chat_template")
    if source is None and "<|im_start|>" in metadata.get("tokenizer.ggml.tokens", ()):
        source = CHATML
    template = ChatTemplate(source, special) if source else None
    fast = exact_tokenizer(metadata)
    counting = counting_tokenizer(metadata) if fast is None else None
    bos = special.get("bos_token") if gguf_adds_bos(metadata) else None
    return Tokenizer(fast, template, bos, path, gguf_control_tokens(metadata), counting=counting)


def _from_folder(folder: Path, template_source: str | None) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise TokenizerError(f"{folder}: no tokenizer.json")
    try:
        fast = FastTokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a bad file
        raise TokenizerError(f"{file}: {error}") from error
    config = _json(folder / "tokenizer_config.json")
    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }
    source = template_source or _folder_template(folder, config)
    control = [token.content for token in fast.get_added_tokens_decoder().values() if token.special]
    return Tokenizer(fast, ChatTemplate(source, special) if source else None, None, folder, control)


def _folder_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja wins over tokenizer_config.json, as in transformers; of several, the default."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    return source if isinstance(source, str) else None


def _json(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    if file.stat().st_size > _JSON_BYTES_MAX:
        raise TokenizerError(f"{file}: larger than {_JSON_BYTES_MAX} bytes")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{file}: not a JSON object")
    return value
