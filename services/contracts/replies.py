"""A reply: the entries of its stream, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from services.contracts.chats import ChatUsage

QUEUED = "0-1"  # id of the entry that every reply begins with
HERE = "bunkhouse"  # who served a chat, unless another provider did


class Finish(StrEnum):
    """How a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ReplyError:
    """Why a chat ended without an answer. `code` is a scheduler Reason or an engine failure."""

    code: str
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """Last entry of a reply."""

    finish: Finish
    usage: ChatUsage | None = None
    error: ReplyError | None = None
    served_by: str = HERE
    stop_text: str = ""  # which of the texts in `Sampling.stop` ended the answer; "": none of them


class ContentKind(StrEnum):
    """What a piece of an answer is. The worker's parser decides."""

    CONTENT = "content"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"  # lines of JSON, each a ToolCallDelta
    PROMPT = "prompt"  # no text: the logprobs of the prompt's tokens; that of the first is null


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of one call. The first of an index has `id` and `name`; `arguments` of all of them make one JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class ReplyEntry(NamedTuple):
    """One entry of a reply stream. `id` is its place: ATTEMPT-NUMBER, growing. `content` says what the text of a text
    entry is; the three before it come with start."""

    id: str
    kind: Literal["queued", "start", "text", "finish", "end"]
    text: str = ""
    tokens: int = 0
    end: ReplyEnd | None = None
    kv_bits: int | None = None
    queue_s: float | None = None
    served_by: str | None = None
    content: ContentKind = ContentKind.CONTENT
    logprobs: str = ""  # JSON array of OpenAI's logprobs.content items; "": not asked for
    choice: int = 0  # which of several answers it is of, where a gateway reads them together
    finish: Finish | None = None  # with finish: how that one ended


def join_logprobs(one: str, other: str) -> str:
    """Two of `ReplyEntry.logprobs`, one after the other."""
    return f"{one[:-1]},{other[1:]}" if one and other else one or other
