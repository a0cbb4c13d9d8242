"""From a bot's messages to what its engine reads: system prompt, chat template, token ids.

A prompt that cannot fit is refused before it is tokenized, and a long one is tokenized in a thread: no client can keep
the event loop busy for longer than a few milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.directory import EngineNow, ServedBot
from gateway.outcomes import Code, Refused
from gateway.request import ChatRequest
from services.config.schema import Config
from services.model_files.weights import resolve
from services.tokenizer.chat_template import TemplateRejected
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer

PREFIXES_MAX = 1_000
TOKENS_MAX = 8_192  # of one: thousand of them are 64 MB at most
TRIAL = "Hello, is this in stock?"


@dataclass(frozen=True, slots=True)
class PrefixEntry:
    """`text` is empty where a bot's prompts have no beginning in common. Templates may name the `day`."""

    system: str
    day: int
    text: str = ""
    ids: Sequence[int] = ()


class PrefixTokens:
    """Token ids of what all prompts of a bot begin with: its system prompt, which may be most of a prompt.

    A tokenizer splits a text at its special tokens first, so the ids up to the end of one do not depend on what
    follows. A template may put the system prompt elsewhere, though, or a tokenizer treat the text's beginning in its
    own way; so each prefix is tried on a whole prompt before it is used. Entries are kept by bot: how long a prompt
    takes must not tell one tenant what another's says. Safe to use from several threads: at worst a prefix is made
    twice.
    """

    def __init__(self) -> None:
        self._prefixes: dict[tuple[str, str], PrefixEntry] = {}  # by bot and model

    def known(self, bot: ServedBot) -> PrefixEntry | None:
        """The bot's prefix, if it was made."""
        prefix = self._prefixes.get((bot.id, bot.config.model))
        return prefix if prefix is not None and (prefix.system, prefix.day) == (bot.config.system, today()) else None

    def encode(self, bot: ServedBot, tokenizer: Tokenizer, text: str) -> list[int]:
        """As `tokenizer.encode`, of a rendered conversation of this bot."""
        prefix = self.known(bot) or self._make(bot, tokenizer)
        if prefix.text and text.startswith(prefix.text):
            return [*prefix.ids, *tokenizer.encode(text[len(prefix.text) :])]
        return tokenizer.encode(text)

    def _make(self, bot: ServedBot, tokenizer: Tokenizer) -> PrefixEntry:
        prefix = prefix_of(bot.config.system, tokenizer)
        while len(self._prefixes) >= PREFIXES_MAX:
            self._prefixes.pop(next(iter(self._prefixes), ("", "")), None)
        self._prefixes[bot.id, bot.config.model] = prefix
        return prefix


def prefix_of(system: str, tokenizer: Tokenizer) -> PrefixEntry:
    """A system prompt's prefix, tried on one prompt."""
    none = PrefixEntry(system, today())
    first = {"role": "system", "content": system}
    try:
        alone = tokenizer.render([first], add_generation_prompt=False)
        whole = tokenizer.render([first, {"role": "user", "content": TRIAL}])
    except TemplateRejected:
        return none
    text = alone[: tokenizer.last_special_end(alone)]
    if not system or not text or not whole.startswith(text):
        return none
    ids = tokenizer.encode(text)
    if len(ids) > TOKENS_MAX or [*ids, *tokenizer.encode(whole[len(text) :])] != tokenizer.encode(whole):
        return none
    return PrefixEntry(system, none.day, text, tuple(ids))


def today() -> int:
    """UTC days since 1970."""
    return int(time.time() // 86_400)


INLINE_CHARS_MAX = 8_192  # about 3 ms of tokenizing
THREADS_MAX = 2
CHARS_PER_TOKEN_MAX = 64  # the longest tokens of today's vocabularies: runs of spaces


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation, counted. `tokens_left` is what the bot's context leaves for the answer."""

    tokens: int
    content: Sequence[int] | str
    context_tokens: int

    @property
    def tokens_left(self) -> int:
        return self.context_tokens - self.tokens


class Prompts:
    """Tokenizers of all models, loaded at the start."""

    def __init__(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        self._tokenizers = tokenizers
        self._prefixes = PrefixTokens()
        self._threads = asyncio.Semaphore(THREADS_MAX)

    @classmethod
    def load(cls, config: Config) -> Prompts:
        """Takes about 0.2 s a model; models with the same weights share one. Raises WeightsError, TokenizerError."""
        sources = {name: (model.weights, model.chat_template) for name, model in config.models.items()}
        loaded = {source: load_tokenizer(resolve(source[0]), source[1]) for source in set(sources.values())}
        return cls({name: loaded[source] for name, source in sources.items()})

    async def prepare(self, bot: ServedBot, request: ChatRequest, engine: EngineNow) -> Prompt:
        """Render and count. Raises Refused when it does not fit or the template does not take it."""
        if request.raw is not None:
            return await self.raw(bot, request.raw, engine)
        context = min(engine.context_tokens, bot.config.context_tokens or engine.context_tokens)
        chars = len(bot.config.system) + sum(len(message.text) for message in request.messages)
        if chars > context * CHARS_PER_TOKEN_MAX:
            raise _too_long(f"{chars // CHARS_PER_TOKEN_MAX}", context, "at least ")
        tokenizer = self._tokenizers[bot.config.model]
        messages = conversation(bot.config.system, request, tokenizer.harmless)
        prefix = self._prefixes.known(bot) if request.messages[0].role in ("user", "assistant") else None
        if chars - (len(prefix.text) if prefix else 0) <= INLINE_CHARS_MAX:
            tokens, content = self._tokenized(bot, tokenizer, messages)
        else:
            async with self._threads:
                tokens, content = await asyncio.to_thread(self._tokenized, bot, tokenizer, messages)
        if tokens >= context:
            raise _too_long(f"{tokens}", context)
        return Prompt(tokens, content, context)

    async def raw(
        self, bot: ServedBot, prompt: str | Sequence[int], engine: EngineNow, *, special: bool = True
    ) -> Prompt:
        """A text or token ids as they are. `special`: with BOS, where the model wants it before a text.

        Raises Refused when it does not fit, or these ids are not the model's.
        """
        context = min(engine.context_tokens, bot.config.context_tokens or engine.context_tokens)
        tokenizer = self._tokenizers[bot.config.model]
        if not isinstance(prompt, str):
            _check_ids(tokenizer, prompt)
            found = Prompt(len(prompt), prompt, context)
        elif len(prompt) > context * CHARS_PER_TOKEN_MAX:
            raise _too_long(f"{len(prompt) // CHARS_PER_TOKEN_MAX}", context, "at least ", param="prompt")
        elif len(prompt) > INLINE_CHARS_MAX:
            async with self._threads:
                found = await asyncio.to_thread(_raw_prompt, tokenizer, prompt, context, special)
        else:
            found = _raw_prompt(tokenizer, prompt, context, special)
        if found.tokens >= context:
            raise _too_long(f"{found.tokens}", context, param="prompt")
        return found

    def text_of(self, bot: ServedBot, prompt: str | Sequence[int]) -> str:
        """A prompt as text. Raises Refused for token ids that are not the model's."""
        if isinstance(prompt, str):
            return prompt
        tokenizer = self._tokenizers[bot.config.model]
        _check_ids(tokenizer, prompt)
        return tokenizer.decode(prompt)

    def _tokenized(
        self, bot: ServedBot, tokenizer: Tokenizer, messages: list[dict[str, str]]
    ) -> tuple[int, Sequence[int] | str]:
        try:
            text = tokenizer.render(messages)
        except TemplateRejected as error:
            raise Refused(Code.INVALID_VALUE, f"The model's chat template: {error}", param="messages") from None
        if not tokenizer.exact:
            return tokenizer.count(text), tokenizer.prompt(text)
        ids = self._prefixes.encode(bot, tokenizer, text)
        return len(ids), ids


def _raw_prompt(tokenizer: Tokenizer, text: str, context: int, special: bool) -> Prompt:
    content = tokenizer.raw_prompt(text, special=special)
    return Prompt(tokenizer.count(text) if isinstance(content, str) else len(content), content, context)


def _check_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    if tokenizer.vocabulary is None:
        raise Refused(
            Code.UNSUPPORTED_PARAMETER, "prompt: only its engine knows this model's token ids.", param="prompt"
        )
    if max(ids) >= tokenizer.vocabulary:
        raise Refused(
            Code.INVALID_VALUE, f"prompt: this model's token ids are below {tokenizer.vocabulary}.", param="prompt"
        )


def conversation(system: str, request: ChatRequest, harmless: Callable[[str], str]) -> list[dict[str, str]]:
    """The messages, made harmless, with bot's default system prompt before whatever the client calls system or
    developer."""
    messages = [
        {"role": "system" if message.role == "developer" else message.role, "content": harmless(message.text)}
        for message in request.messages
    ]
    if not system:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return [{"role": "system", "content": f"{system}\n\n{messages[0]['content']}"}, *messages[1:]]


def _too_long(tokens: str, context: int, about: str = "", *, param: str = "messages") -> Refused:
    return Refused(
        Code.CONTEXT_LENGTH,
        f"This bot's context is {context} tokens, too few for the {about}{tokens} of the {param}.",
        param=param,
    )
