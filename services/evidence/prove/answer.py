"""One answer while it is read from an engine: its times, and its thoughts apart, as a worker's parser reads them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from services.contracts.replies import ContentKind
from services.engines.base import Engine, EngineRequest, Piece
from services.worker.parsers.base import Parsed, Parser

Clock = Callable[[], float]


@dataclass(slots=True)
class Timed:
    """One answer. Durations in seconds; `gaps_s` are silences between pieces that brought text or tokens."""

    text: str = ""  # the answer alone
    reasoning_content: str = ""  # its thoughts
    tokens: int = 0
    reasoning_tokens: int = 0  # thoughts, which are a part of `tokens`
    first_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)

    @property
    def total_s(self) -> float | None:
        """From the request to the last piece. None: nothing came."""
        return None if self.first_s is None else self.first_s + sum(self.gaps_s)


@dataclass(frozen=True, slots=True)
class TokenBounds:
    """The most tokens that one answer has in its thoughts, and in what it says."""

    thoughts: int
    answer: int


class AnswerReader:
    """Reads one answer into `timed`, from one stream of an engine after another. `raw` is what the model wrote."""

    def __init__(self, parser: Parser, clock: Clock = time.perf_counter) -> None:
        self.timed = Timed()
        self.raw = ""
        self._parser = parser
        self._clock = clock
        self._last = clock()

    async def read(self, engine: Engine, request: EngineRequest, bounds: TokenBounds | None = None) -> bool:
        """Read a stream to its end. With `bounds`, only to them. False: thoughts reached theirs, and no answer came.

        Raises EngineError.
        """
        async with aclosing(cast("AsyncGenerator[Piece, None]", engine.stream(request))) as pieces:
            async for piece in pieces:
                if not piece.tokens and not piece.text:
                    continue
                self._stamp()
                self.timed.tokens += piece.tokens
                self.raw += piece.text
                self._take(self._parser.feed(piece.text, piece.tokens))
                if bounds is None:
                    continue
                if self.timed.tokens - self.timed.reasoning_tokens >= bounds.answer and self.timed.text:
                    return True
                if self.timed.reasoning_tokens >= bounds.thoughts and self._parser.end_of_thoughts:
                    return False
        return True

    def end_thoughts(self) -> None:
        """Write their end in the model's place."""
        text = self._parser.end_of_thoughts
        self.raw += text
        self._take(self._parser.feed(text, 0))

    def finish(self) -> Timed:
        """The answer, with what was held back."""
        self._take(self._parser.finish())
        return self.timed

    def _stamp(self) -> None:
        now = self._clock()
        if self.timed.first_s is None:
            self.timed.first_s = now - self._last
        else:
            self.timed.gaps_s.append(now - self._last)
        self._last = now

    def _take(self, parts: Sequence[Parsed]) -> None:
        for part in parts:
            if part.content is ContentKind.REASONING:
                self.timed.reasoning_content += part.text
                self.timed.reasoning_tokens += part.tokens
            elif part.content is ContentKind.CONTENT:
                self.timed.text += part.text
