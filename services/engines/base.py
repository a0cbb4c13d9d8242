"""The seam between the host and an engine. Two real sides: `llamacpp` and `sglang`.

A worker owns one engine. The engine's server runs in a process of its own on loopback and dies with
its worker. One conformance suite (tests/engines) runs over both sides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import orjson

from services.contracts.chats import KvBits, Sampling
from services.contracts.engines import EngineFacts, EngineReport

UNLIKELY = -9999.0
Progress = Callable[[str], None]  # words for the start-up display: "loading weights", "capturing graphs"


class EngineError(Exception):
    """An engine's failure, translated at the seam.

    EngineError
    +-- EngineStartError     it did not come up; the message ends with its last log lines
    +-- EngineUnavailable    it does not run or does not answer; the chat may be tried again
    +-- EngineBusy           it is full right now; the chat may be tried again
    +-- EngineRejected       it will never take this request; the message names the reason
    +-- KvBitsUnsupported    it cannot hold KV at these bits; the message names those it can
    """


class EngineStartError(EngineError):
    """The engine did not come up. The message says what is missing and ends with its last log lines."""


class EngineUnavailable(EngineError):
    """The engine died, hangs or answers nonsense. The chat was not finished and may be tried again."""


class EngineBusy(EngineError):
    """The engine has no room right now."""


class EngineRejected(EngineError):
    """The engine refuses this request for good, for example because it is longer than its context."""


class KvBitsUnsupported(EngineError):
    """The engine cannot hold KV at these bits."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One chat as an engine gets it: tokens in, tokens out; the chat template was applied before.

    `prompt` is token ids where the host has the model's exact tokenizer, else text with the template's
    special tokens spelled out, to be parsed as such.
    `salt` separates prefix caches: requests with different salts never share a cached prefix.
    """

    chat: str
    prompt: Sequence[int] | str
    max_tokens: int
    sampling: Sampling
    salt: str
    kv_bits: KvBits
    priority: int = 0
    adapter: str | None = None
    messages: Sequence[Mapping[str, str]] = ()  # the conversation before its template, for other providers
    said: str = ""  # what earlier attempts wrote; `prompt` ends with it
    special: Sequence[str] = ()  # special tokens that stay in the answer's text; engines drop all others
    json_schema: str = ""  # that the answer must match, as JSON text; "": anything


class Piece(NamedTuple):  # there is one a token, and a frozen dataclass takes three times as long to make
    """A part of an answer, in order. The last one has `finish` and the counts."""

    text: str = ""
    tokens: int = 0  # how many tokens this piece adds
    finish: str | None = None  # "stop" | "length"
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: str = ""  # JSON array of OpenAI's logprobs.content items, of these tokens; "": not asked for
    prompt_logprobs: str = ""  # the same of the prompt's tokens, with the first piece; that of the first token is null
    stop_text: str = ""  # with the finish "stop": the stop text that the model wrote; "": it ended by itself


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token and the natural log of its probability, before temperature. As in OpenAI's API, -9999 says: next to 0."""

    token: str
    logprob: float
    bytes: Sequence[int]


@dataclass(frozen=True, slots=True)
class TokenLogprob(Logprob):
    """A drawn token, with the likeliest in its place."""

    top_logprobs: Sequence[Logprob]


def encode_logprobs(items: Sequence[TokenLogprob]) -> str:
    """`Piece.logprobs`."""
    return orjson.dumps(items).decode() if items else ""


class Engine(Protocol):
    """One model being served. Methods raise EngineError and nothing else."""

    @property
    def can_sleep(self) -> bool:
        """Whether `sleep` gives the weights' and the KV pool's memory back."""

    async def start(self, progress: Progress) -> EngineFacts:
        """Bring the server up and return when it answers. Raises EngineStartError, KvBitsUnsupported."""

    async def report(self) -> EngineReport:
        """Load now. Raises EngineUnavailable."""

    def stream(self, request: EngineRequest) -> AsyncIterator[Piece]:
        """Run one chat. Closing the iterator early cancels it in the engine and frees its KV."""

    async def set_kv_bits(self, bits: KvBits, progress: Progress) -> EngineFacts:
        """Change the KV bits: live where the engine can, else by a restart. The caller has drained it then."""

    async def set_chat_kv_bits(self, chat: str, bits: KvBits) -> None:
        """Change one running chat, live.

        Raises KvBitsUnsupported unless the facts say `live_kv_bits`, EngineUnavailable where nothing was changed.
        """

    async def sleep(self) -> None:
        """Give the model's memory back. The caller has drained it. Raises EngineUnavailable, EngineRejected."""

    async def wake(self, progress: Progress) -> EngineFacts:
        """Undo `sleep`. Raises EngineStartError, EngineUnavailable."""

    async def alive(self) -> bool:
        """Whether the server process runs and answers its health check within a second or so."""

    async def stop(self) -> None:
        """End the server and every process below it. Safe to call twice."""
