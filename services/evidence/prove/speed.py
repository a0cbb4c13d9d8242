"""Decoding speed after a long prompt, where KV bytes weigh most: short bursts that go round all precisions.

Every precision has an engine of its own that keeps the prompt in its cache, so a burst costs no second prefill, and
what else the machine does meanwhile falls on all precisions alike. A burst's speed is its tokens over the time from
its request to its last token, so that pieces that a busy reader finds bunched do not look fast; the figure is that of
the fastest burst, the least disturbed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.engines.base import Engine, EngineRequest
from services.evidence.corpus import document
from services.tokenizer.tokenizer import Tokenizer

from .answer import Timed
from .chats import ChatDriver

USEFUL_TOKENS = 8  # a burst of fewer says nothing about speed
PROMPTS = 3
SALT = "prove-speed"


@dataclass(slots=True)
class Bursts:
    """All bursts at one precision. The first one has the prefill, so it counts for nothing but `first_s`."""

    speeds: list[float] = field(default_factory=list)  # tokens a second
    first_s: float | None = None

    def add(self, timed: Timed) -> None:
        """Take the next burst's times."""
        if self.first_s is None:
            self.first_s = timed.first_s
        elif timed.total_s and timed.tokens >= USEFUL_TOKENS:
            self.speeds.append(timed.tokens / timed.total_s)

    @property
    def tokens_per_s(self) -> float | None:
        """None: no burst was long enough."""
        return max(self.speeds, default=None)


def long_prompt(tokenizer: Tokenizer, tokens: int, seed: int) -> Sequence[int] | str:
    """A case file of `tokens` tokens; where the tokenizer is not exact, a text of about as many."""
    text = document(random.Random(seed), tokens * 5, "en")
    return tokenizer.encode(text)[:tokens] if tokenizer.exact else text[: tokens * 3]


async def decode(
    engines: Mapping[int, tuple[Engine, ChatDriver]], prompts: Sequence[Sequence[int] | str], bursts: int, tokens: int
) -> dict[int, Bursts]:
    """`bursts` rounds of `tokens` tokens at each precision. Raises EngineError.

    Takes the first of `prompts` after which the first engine goes on for a while.
    """
    found = {bits: Bursts() for bits in engines}
    prompt = prompts[0]
    for number in range(bursts):
        for bits, (engine, driver) in engines.items():
            timed = await driver.ask(engine, _request(driver, prompt, tokens))
            if number == 0 and bits == next(iter(engines)):
                for other in prompts[1:]:
                    if timed.tokens >= USEFUL_TOKENS:
                        break
                    prompt = other
                    timed = await driver.ask(engine, _request(driver, prompt, tokens))
            found[bits].add(timed)
    return found


def _request(driver: ChatDriver, prompt: Sequence[int] | str, tokens: int) -> EngineRequest:
    return replace(driver.request("", tokens), prompt=prompt, salt=SALT)
