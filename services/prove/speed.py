"""Decoding speed after a long prompt: where KV bytes weigh most."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from services.engines.base import Engine
from services.loadtest.corpus import document
from services.tokenizer import Tokenizer

from .chats import Talker

USEFUL_TOKENS = 8  # an answer shorter than this says nothing about speed
PROMPTS = 3


@dataclass(frozen=True, slots=True)
class Decoded:
    """One long chat: every silence between tokens, and the wait for the first. Seconds."""

    gaps_s: tuple[float, ...]
    first_s: float


def long_prompt(tokenizer: Tokenizer, tokens: int, seed: int) -> Sequence[int] | str:
    """A case file of `tokens` tokens; where the tokenizer is not exact, a text of about as many."""
    text = document(random.Random(seed), tokens * 5, "en")
    return tokenizer.encode(text)[:tokens] if tokenizer.exact else text[: tokens * 3]


async def decode(engine: Engine, talker: Talker, prompts: Sequence[Sequence[int] | str], tokens: int) -> Decoded:
    """Decode `tokens` after the first of `prompts` whose answer is long enough to be timed. Raises EngineError."""
    best = Decoded((), 0.0)
    for prompt in prompts:
        request = replace(talker.request("", tokens), prompt=prompt)
        timed = await talker.ask(engine, request)
        if timed.first_s is not None and len(timed.gaps_s) > len(best.gaps_s):
            best = Decoded(tuple(timed.gaps_s), timed.first_s)
        if len(best.gaps_s) >= USEFUL_TOKENS:
            break
    return best


def tokens_per_s(runs: Sequence[Decoded]) -> float | None:
    """One over the median silence of all runs: a pause of the machine's own does not count."""
    gaps = [gap for run in runs for gap in run.gaps_s]
    return 1 / median(gaps) if len(gaps) >= USEFUL_TOKENS else None
