"""Decoding speed after a long prompt, where KV bytes weigh most: short bursts that go round all precisions.

Every precision has an engine of its own that keeps the prompt in its cache, so a burst costs no second prefill, and
what else the machine does meanwhile falls on all precisions alike. The figure is one over the lower quartile of the
times between tokens: on a quiet machine that is nearly the median, on a busy one it is the least disturbed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.engines.base import Engine, EngineRequest
from services.loadtest.corpus import document
from services.loadtest.figures import quantile
from services.tokenizer import Tokenizer

from .chats import Talker

USEFUL_GAPS = 8  # fewer say nothing about speed
UNDISTURBED = 0.25
PROMPTS = 3
SALT = "prove-speed"


@dataclass(slots=True)
class Bursts:
    """All bursts at one precision. Seconds."""

    gaps_s: list[float] = field(default_factory=list)
    first_s: float | None = None  # of the first burst, which has the prefill

    @property
    def tokens_per_s(self) -> float | None:
        """None: too few tokens came."""
        if len(self.gaps_s) < USEFUL_GAPS:
            return None
        return 1 / quantile(sorted(self.gaps_s), UNDISTURBED)


def long_prompt(tokenizer: Tokenizer, tokens: int, seed: int) -> Sequence[int] | str:
    """A case file of `tokens` tokens; where the tokenizer is not exact, a text of about as many."""
    text = document(random.Random(seed), tokens * 5, "en")
    return tokenizer.encode(text)[:tokens] if tokenizer.exact else text[: tokens * 3]


async def decode(
    engines: Mapping[int, tuple[Engine, Talker]], prompts: Sequence[Sequence[int] | str], bursts: int, tokens: int
) -> dict[int, Bursts]:
    """`bursts` rounds of `tokens` tokens at each precision. Raises EngineError.

    Takes the first of `prompts` after which the first engine goes on for a while.
    """
    found = {bits: Bursts() for bits in engines}
    prompt = prompts[0]
    for number in range(bursts):
        for bits, (engine, talker) in engines.items():
            timed = await talker.ask(engine, _request(talker, prompt, tokens))
            if number == 0 and bits == next(iter(engines)):
                for other in prompts[1:]:
                    if len(timed.gaps_s) >= min(USEFUL_GAPS, tokens - 1):
                        break
                    prompt = other
                    timed = await talker.ask(engine, _request(talker, prompt, tokens))
            if number == 0:
                found[bits].first_s = timed.first_s
            found[bits].gaps_s += timed.gaps_s
    return found


def _request(talker: Talker, prompt: Sequence[int] | str, tokens: int) -> EngineRequest:
    return replace(talker.request("", tokens), prompt=prompt, salt=SALT)
