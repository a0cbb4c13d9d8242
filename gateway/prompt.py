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
from gateway.rendering import PLAIN, rendered
from gateway.request import ChatRequest
from services.config.schema import Config
from services.contracts.chats import OutputFormat
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
RAW = OutputFormat(plain=True)
CHARS_PER_TOKEN_MAX = 64  # the longest tokens of today's vocabularies: runs of spaces


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation, counted. `tokens_left` is what the bot's context leaves for the answer."""

    tokens: int
    content: Sequence[int] | str
    context_tokens: int
    output: OutputFormat = PLAIN

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

    def takes_tools(self, bot: ServedBot) -> bool:
        """Whether the bot's model has a spelling of its own for calls and their results."""
        return self._tokenizers[bot.config.model].takes_tools

    async def prepare(self, bot: ServedBot, request: ChatRequest, engine: EngineNow) -> Prompt:
        """Render and count. Raises Refused when it does not fit or the template does not take it."""
        if request.raw is not None:
            return await self.raw(bot, request.raw, engine)
        context = _context_of(bot, engine)
        chars = len(bot.config.system) + request.chars
        _check_chars(chars, context, "messages")
        tokenizer = self._tokenizers[bot.config.model]
        _check_token_parameters(tokenizer, request)
        begins_alike = request.messages[0].role in ("user", "assistant") and not request.mentions_tools
        prefix = self._prefixes.known(bot) if begins_alike else None
        prompt = await self._run(
            chars - (len(prefix.text) if prefix else 0), lambda: self._tokenized(bot, tokenizer, request, context)
        )
        return _fitting(prompt, "messages")

    def count(self, bot: ServedBot, text: str) -> int:
        """Tokens of a text, for the bot's model."""
        return self._tokenizers[bot.config.model].count(text)

    async def prepare_all(self, bot: ServedBot, request: ChatRequest, engine: EngineNow) -> Sequence[Prompt]:
        """As `prepare`, each of the request's prompts."""
        if len(request.raws) < 2:
            return [await self.prepare(bot, request, engine)]
        return [await self.raw(bot, raw, engine) for raw in request.raws]

    async def raw(
        self, bot: ServedBot, prompt: str | Sequence[int], engine: EngineNow, *, special: bool = True
    ) -> Prompt:
        """A text or token ids as they are. `special`: with BOS, where the model wants it before a text.

        Raises Refused when it does not fit, or these ids are not the model's.
        """
        context, tokenizer = _context_of(bot, engine), self._tokenizers[bot.config.model]
        if not isinstance(prompt, str):
            _check_ids(tokenizer, prompt)
            return _fitting(Prompt(len(prompt), prompt, context, RAW), "prompt")
        _check_chars(len(prompt), context, "prompt")
        text = prompt
        return _fitting(await self._run(len(text), lambda: _raw_prompt(tokenizer, text, context, special)), "prompt")

    async def _run(self, chars: int, tokenize: Callable[[], Prompt]) -> Prompt:
        """Tokenize so many characters: here, or in a thread where there are many."""
        if chars <= INLINE_CHARS_MAX:
            return tokenize()
        async with self._threads:
            return await asyncio.to_thread(tokenize)

    def text_of(self, bot: ServedBot, prompt: str | Sequence[int]) -> str:
        """A prompt as text. Raises Refused for token ids that are not the model's."""
        if isinstance(prompt, str):
            return prompt
        tokenizer = self._tokenizers[bot.config.model]
        _check_ids(tokenizer, prompt)
        return tokenizer.decode(prompt)

    def _tokenized(self, bot: ServedBot, tokenizer: Tokenizer, request: ChatRequest, context: int) -> Prompt:
        found = rendered(tokenizer, bot.config, request)
        if not tokenizer.exact:
            return Prompt(tokenizer.count(found.text), tokenizer.prompt(found.text), context, found.output)
        ids = self._prefixes.encode(bot, tokenizer, found.text)
        return Prompt(len(ids), ids, context, found.output)


def _check_token_parameters(tokenizer: Tokenizer, request: ChatRequest) -> None:
    """Ids that the model does not have would stop some engines. Raises Refused."""
    for param, ids in (("logit_bias", map(int, request.logit_bias or ())), ("stop_token_ids", request.stop_token_ids)):
        if (most := max(ids or (), default=None)) is not None:
            _check_ids(tokenizer, (most,), param)


def _raw_prompt(tokenizer: Tokenizer, text: str, context: int, special: bool) -> Prompt:
    content = tokenizer.raw_prompt(text, special=special)
    return Prompt(tokenizer.count(text) if isinstance(content, str) else len(content), content, context, RAW)


def _check_ids(tokenizer: Tokenizer, ids: Sequence[int], param: str = "prompt") -> None:
    if tokenizer.vocabulary is None:
        raise Refused(
            Code.UNSUPPORTED_PARAMETER, f"{param}: only its engine knows this model's token ids.", param=param
        )
    if max(ids) >= tokenizer.vocabulary:
        raise Refused(
            Code.INVALID_VALUE, f"{param}: this model's token ids are below {tokenizer.vocabulary}.", param=param
        )


def _context_of(bot: ServedBot, engine: EngineNow) -> int:
    return min(engine.context_tokens, bot.config.context_tokens or engine.context_tokens)


def _check_chars(chars: int, context: int, param: str) -> None:
    """Raises Refused for more than any tokenizer could bring into the context."""
    if chars > context * CHARS_PER_TOKEN_MAX:
        raise _too_long(f"at least {chars // CHARS_PER_TOKEN_MAX}", context, param)


def _fitting(prompt: Prompt, param: str) -> Prompt:
    """The prompt. Raises Refused where it leaves no token for an answer."""
    if prompt.tokens >= prompt.context_tokens:
        raise _too_long(f"{prompt.tokens}", prompt.context_tokens, param)
    return prompt


def _too_long(tokens: str, context: int, param: str) -> Refused:
    return Refused(
        Code.CONTEXT_LENGTH,
        f"This bot's context is {context} tokens, too few for the {tokens} of the {param}.",
        param=param,
    )
