"""Chats straight through an engine's seam, timed; no gateway between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from services.contracts.chats import KvBits, Sampling
from services.engines.base import Engine, EngineRequest
from services.evidence import corpus
from services.tokenizer.tokenizer import Tokenizer

Clock = Callable[[], float]


@dataclass(slots=True)
class Timed:
    """One answer. Durations in seconds; `gaps_s` are silences between pieces that brought text or tokens."""

    text: str = ""  # without its thoughts
    thoughts: str = ""
    tokens: int = 0
    first_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)

    @property
    def total_s(self) -> float | None:
        """From the request to the last piece. None: nothing came."""
        return None if self.first_s is None else self.first_s + sum(self.gaps_s)


class ChatDriver:
    """Builds requests for one model at one precision and runs them."""

    def __init__(self, tokenizer: Tokenizer, bits: KvBits, clock: Clock = time.perf_counter) -> None:
        self._tokenizer = tokenizer
        prompt = tokenizer.render([{"role": "user", "content": "Hello"}])
        self._inside = tokenizer.family.begins_inside(prompt)
        self._bits = bits
        self._clock = clock
        self._numbers = count()

    def request(
        self, text: str, max_tokens: int, sampling: Sampling | None = None, shots: Sequence[tuple[str, str]] = ()
    ) -> EngineRequest:
        """A chat of one message, after examples of questions and answers where `shots` has some.

        Chats with examples may share their prefix; of the others, each has a salt of its own.
        """
        messages = [
            {"role": role, "content": said}
            for shot in shots
            for role, said in zip(("user", "assistant"), shot, strict=True)
        ]
        rendered = self._tokenizer.render([*messages, {"role": "user", "content": text}])
        name = f"prove-{next(self._numbers)}"
        return EngineRequest(
            chat=name,
            prompt=self._tokenizer.prompt(rendered),
            max_tokens=max_tokens,
            sampling=sampling or Sampling(temperature=0.0),
            salt="prove-shots" if shots else name,
            kv_bits=self._bits,
            special=self._tokenizer.special_markers,
        )

    async def ask(self, engine: Engine, request: EngineRequest) -> Timed:
        """Run one chat to its end. Raises EngineError."""
        timed = Timed()
        begun = last = self._clock()
        async for piece in engine.stream(request):
            if not piece.tokens and not piece.text:
                continue
            now = self._clock()
            if timed.first_s is None:
                timed.first_s = now - begun
            else:
                timed.gaps_s.append(now - last)
            last = now
            timed.text += piece.text
            timed.tokens += piece.tokens
        timed.thoughts, timed.text = self._tokenizer.family.thoughts_apart(timed.text, inside=self._inside)
        return timed

    async def all_of(self, engine: Engine, requests: Sequence[EngineRequest], at_once: int) -> list[Timed]:
        """Run all, `at_once` at a time; results in the order of the requests."""
        slots = asyncio.Semaphore(at_once)

        async def one(request: EngineRequest) -> Timed:
            async with slots:
                return await self.ask(engine, request)

        return list(await asyncio.gather(*(one(r) for r in requests)))

    async def busy(self, engine: Engine, users: int, seconds: float, max_tokens: int, chat_s_max: float) -> list[Timed]:
        """`users` users who ask support questions one after another for `seconds`.

        An answer that takes `chat_s_max` is cancelled and comes back without a first token.
        """
        until = self._clock() + seconds
        done: list[Timed] = []

        async def user(number: int) -> None:
            for text in _support_questions(number):
                try:
                    async with asyncio.timeout(chat_s_max):
                        done.append(await self.ask(engine, self.request(text, max_tokens)))
                except TimeoutError:
                    done.append(Timed())
                if self._clock() >= until:
                    return

        await asyncio.gather(*(user(n) for n in range(users)))
        return done


def _support_questions(start: int) -> Iterator[str]:
    english = [d for d in corpus.dialogues() if d.language == "en"]
    for number in count(start * 7):
        yield english[number % len(english)].turns[0].user
