"""Chats straight through an engine's seam, timed; no gateway between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from services.contracts.chats import KvBits, OutputFormat, Sampling
from services.engines.base import Engine, EngineRequest
from services.evidence import corpus
from services.tokenizer.tokenizer import Tokenizer
from services.worker.parsers import machine_of, make_parser

from .answer import AnswerReader, Clock, Timed, TokenBounds

CLOSING_TOKENS = 16  # room for what ends thoughts


@dataclass(frozen=True, slots=True)
class ThoughtsRoom:
    """Thoughts that come before an answer have at most so many tokens, in a context of so many."""

    tokens_max: int
    context_tokens: int

    def beside(self, tokens: int) -> int:
        """What is left of it where the prompt and the answer take `tokens`."""
        return max(0, min(self.tokens_max, self.context_tokens - tokens - CLOSING_TOKENS))


class ChatDriver:
    """Builds requests for one model at one precision and runs them.

    A model that thinks gets `thoughts` beside its answer's `max_tokens`. None: its thoughts are a part of them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        bits: KvBits,
        thoughts: ThoughtsRoom | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._tokenizer = tokenizer
        prompt = tokenizer.render([{"role": "user", "content": "Hello"}])
        self._output = OutputFormat(thinking=tokenizer.family.begins_inside(prompt))
        self._thoughts = thoughts if self.thinks else None
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

    @property
    def thinks(self) -> bool:
        """Whether the model's template has a place for thoughts."""
        return machine_of(self._tokenizer.family, self._output) is not None

    async def ask(self, engine: Engine, request: EngineRequest) -> Timed:
        """Run one chat to its end. Raises EngineError."""
        reader = AnswerReader(make_parser(self._tokenizer.family, self._output, request.chat, ""), self._clock)
        if self._thoughts is None:
            await reader.read(engine, request)
        else:
            await self._think(engine, request, reader, self._thoughts)
        return reader.finish()

    async def _think(self, engine: Engine, request: EngineRequest, reader: AnswerReader, room: ThoughtsRoom) -> None:
        """Thoughts, then the answer. Thoughts that take all of their room are ended there, as a worker ends them."""
        prompt, answer = request.prompt, request.max_tokens
        thoughts = room.beside(answer + (self._tokenizer.count(prompt) if isinstance(prompt, str) else len(prompt)))
        longer = replace(request, max_tokens=thoughts + answer)
        if not await reader.read(engine, longer, TokenBounds(thoughts, answer)):
            reader.end_thoughts()
            said = reader.raw
            prompt = prompt + said if isinstance(prompt, str) else [*prompt, *self._tokenizer.encode(said)]
            await reader.read(engine, replace(request, prompt=prompt, said=said))

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
