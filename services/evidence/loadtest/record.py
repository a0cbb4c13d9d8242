"""What is kept of each chat, and the JSON-lines file of a run.

First line: `{"kind": "run", ...}`; then one `{"kind": "chat", ...}` a chat, in the order in which they ended, and
`{"kind": "sample", ...}` once a second where the server is a Bunkhouse.
All `*_s` are seconds since the run's start, but for durations, which say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .meter import KvSample


class Result(StrEnum):
    """How a chat ended, as its user saw it."""

    OK = "ok"
    REFUSED = "refused"  # 429, 503 or a word to that effect before the first token: the server had no room
    FAILED = "failed"  # any other error, or one in mid-stream
    BROKEN = "broken"  # the stream ended without its end marks, or lost or doubled tokens
    ABANDONED = "abandoned"  # this user went away on purpose
    UNFINISHED = "unfinished"  # still running when the drain time was over


@dataclass(slots=True)
class ChatRecord:
    """One chat. `intended_s` is when its user wanted to send; latencies count from there."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    tenant: str
    session: str
    turn: int
    language: str
    task: str
    intended_s: float
    sent_s: float = 0.0
    head_s: float | None = None
    first_s: float | None = None
    end_s: float = 0.0
    result: Result = Result.FAILED
    reason: str = ""  # "429 queue_full", "connection reset"; empty when ok
    status: int = 0
    pieces: int = 0
    gaps_ms: list[float] = field(default_factory=list)  # silences between pieces
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    lost: int = 0
    doubled: int = 0
    faults: list[str] = field(default_factory=list)  # what the stream check found, in words
    queue_s: float | None = None  # a duration, as the server reports it
    overhead_ms: float | None = None
    kv_bits: int | None = None
    kv_bytes: int | None = None
    served_by: str | None = None
    correct: bool | None = None  # for questions with a checkable answer

    @property
    def first_token_s(self) -> float | None:
        """From the intended send time to the first piece, a duration."""
        return None if self.first_s is None else self.first_s - self.intended_s

    @property
    def inter_token_s(self) -> float | None:
        """Mean time between tokens, a duration; by the server's token count, else by pieces."""
        if self.first_s is None or not self.gaps_ms:
            return None
        steps = max(self.completion_tokens or 0, self.pieces) - 1
        return sum(self.gaps_ms) / 1000 / steps

    @property
    def tokens(self) -> int:
        """Answer tokens: the server's count, else pieces seen."""
        return self.pieces if self.completion_tokens is None else self.completion_tokens


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as read back from its file."""

    head: Mapping[str, object]  # scenario, url, started, machine
    chats: tuple[ChatRecord, ...]
    samples: tuple[KvSample, ...] = ()


_CHAT, _SAMPLE = TypeAdapter(ChatRecord), TypeAdapter(KvSample)


class RunFileError(Exception):
    """A run's file cannot be used; says which line and why."""


class RunWriter:
    """Writes a run's JSON lines as they come, so that a killed run keeps what it had."""

    def __init__(self, path: Path, head: Mapping[str, object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._write({"kind": "run", **head})

    def add(self, chat: ChatRecord) -> None:
        self._write({"kind": "chat"} | asdict(chat))

    def sample(self, sample: KvSample) -> None:
        self._write({"kind": "sample"} | asdict(sample))

    def _write(self, value: Mapping[str, object]) -> None:
        self._file.write(orjson.dumps(value) + b"\n")

    def close(self) -> None:
        self._file.close()


def read_run(path: Path) -> Run:
    """Read a run back. Raises RunFileError."""
    head: Mapping[str, object] | None = None
    chats: list[ChatRecord] = []
    samples: list[KvSample] = []
    for number, value in _lines(path):
        kind = value.pop("kind", None)
        try:
            if kind == "run":
                head = value
            elif kind == "sample":
                samples.append(_SAMPLE.validate_python(value))
            elif kind == "chat":
                chats.append(_CHAT.validate_python(value))
        except ValidationError as error:
            raise RunFileError(f"{path}:{number}: not a {kind} record: {error}") from error
    if head is None:
        raise RunFileError(f"{path}: not a load test's file: its first line should have kind `run`")
    return Run(head, tuple(chats), tuple(samples))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                value = orjson.loads(line)
                if not isinstance(value, dict):
                    raise RunFileError(f"{path}:{number}: not a JSON object")
                yield number, value
    except OSError as error:
        raise RunFileError(f"{path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise RunFileError(f"{path}: not JSON lines: {error}") from error
