"""From a bot's messages to what its engine reads: system prompt, chat template, token ids.

A prompt that cannot fit is refused before it is tokenized, and a long one is tokenized in a thread: no client can keep
the event loop busy for longer than a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.directory import ServedBot
from gateway.engines import EngineNow
from gateway.outcomes import Code, Refused
from gateway.prefix_tokens import PrefixTokens
from gateway.request import ChatRequest
from services.config.schema import Config
from services.model_files.weights import resolve
from services.tokenizer.chat_template import TemplateRejected
from services.tokenizer.tokenizer import Tokenizer, load_tokenizer

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
        self._heads = PrefixTokens()
        self._threads = asyncio.Semaphore(THREADS_MAX)

    @classmethod
    def load(cls, config: Config) -> Prompts:
        """Takes about 0.2 s a model; models with the same weights share one. Raises WeightsError, TokenizerError."""
        all_weights = {model.weights for model in config.models.values()}
        by_weights = {weights: load_tokenizer(resolve(weights)) for weights in all_weights}
        return cls({name: by_weights[model.weights] for name, model in config.models.items()})

    async def prepare(self, bot: ServedBot, request: ChatRequest, engine: EngineNow) -> Prompt:
        """Render and count. Raises Refused when it does not fit or the template does not take it."""
        context = min(engine.context_tokens, bot.config.context_tokens or engine.context_tokens)
        chars = len(bot.config.system) + sum(len(message.text) for message in request.messages)
        if chars > context * CHARS_PER_TOKEN_MAX:
            raise _too_long(f"{chars // CHARS_PER_TOKEN_MAX}", context, "at least ")
        tokenizer = self._tokenizers[bot.config.model]
        messages = conversation(bot.config.system, request, tokenizer.harmless)
        head = self._heads.known(bot) if request.messages[0].role in ("user", "assistant") else None
        if chars - (len(head.text) if head else 0) <= INLINE_CHARS_MAX:
            tokens, content = self._tokenized(bot, tokenizer, messages)
        else:
            async with self._threads:
                tokens, content = await asyncio.to_thread(self._tokenized, bot, tokenizer, messages)
        if tokens >= context:
            raise _too_long(f"{tokens}", context)
        return Prompt(tokens, content, context)

    def _tokenized(
        self, bot: ServedBot, tokenizer: Tokenizer, messages: list[dict[str, str]]
    ) -> tuple[int, Sequence[int] | str]:
        try:
            text = tokenizer.render(messages)
        except TemplateRejected as error:
            raise Refused(Code.INVALID_VALUE, f"The model's chat template: {error}", param="messages") from None
        if not tokenizer.exact:
            return tokenizer.count(text), tokenizer.prompt(text)
        ids = self._heads.encode(bot, tokenizer, text)
        return len(ids), ids


def conversation(system: str, request: ChatRequest, harmless: Callable[[str], str]) -> list[dict[str, str]]:
    """The messages, made harmless, with the bot's own system prompt before whatever the client calls system or
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


def _too_long(tokens: str, context: int, about: str = "") -> Refused:
    return Refused(
        Code.CONTEXT_LENGTH,
        f"This bot's context is {context} tokens, but the messages take {about}{tokens} tokens. Shorten them.",
        param="messages",
    )
