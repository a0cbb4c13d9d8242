"""Token ids of what all prompts of a bot begin with: its system prompt, which may be most of a prompt.

A tokenizer takes a text apart at its special tokens before anything else, so ids up to the end of one do not depend on
what follows it. A template may put the system prompt elsewhere, though, or a tokenizer treat the text's beginning in
its own way; so each bot's beginning is tried on a whole prompt before it is used. Kept by bot: how long a prompt takes
must not tell one tenant what another's says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.directory import ServedBot
from services.tokenizer.chat_template import TemplateRejected
from services.tokenizer.tokenizer import Tokenizer

HEADS_MAX = 1_000
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
    """Safe to use from several threads: at worst a head is made twice."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, str], PrefixEntry] = {}  # by bot and model

    def known(self, bot: ServedBot) -> PrefixEntry | None:
        """The bot's head, if it was made."""
        head = self._heads.get((bot.id, bot.config.model))
        return head if head is not None and (head.system, head.day) == (bot.config.system, today()) else None

    def encode(self, bot: ServedBot, tokenizer: Tokenizer, text: str) -> list[int]:
        """As `tokenizer.encode`, of a rendered conversation of this bot."""
        head = self.known(bot) or self._make(bot, tokenizer)
        if head.text and text.startswith(head.text):
            return [*head.ids, *tokenizer.encode(text[len(head.text) :])]
        return tokenizer.encode(text)

    def _make(self, bot: ServedBot, tokenizer: Tokenizer) -> PrefixEntry:
        head = head_of(bot.config.system, tokenizer)
        while len(self._heads) >= HEADS_MAX:
            self._heads.pop(next(iter(self._heads), ("", "")), None)
        self._heads[bot.id, bot.config.model] = head
        return head


def head_of(system: str, tokenizer: Tokenizer) -> PrefixEntry:
    """A system prompt's head, tried on one prompt."""
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
