"""A reply as the blocks that other APIs answer with: thoughts, text and tool calls, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import orjson

from services.contracts.replies import ContentKind, ReplyEntry, join_logprobs


@dataclass
class Block:
    """One block. `call_index` is -1 except for tool calls."""

    index: int
    kind: ContentKind
    call_index: int = -1
    call_id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: str = ""

    @property
    def text(self) -> str:
        """The thoughts, the text, or the call's arguments, as far as they have come."""
        return "".join(self.parts)


class StepKind(StrEnum):
    """What happens to a block."""

    OPENED = "opened"
    GREW = "grew"
    CLOSED = "closed"


class Step(NamedTuple):
    """One thing that happened to a block; `text` is what it grew by."""

    kind: StepKind
    block: Block
    text: str = ""
    logprobs: str = ""


class Blocks:
    """The blocks of one reply so far."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None

    def feed(self, entry: ReplyEntry) -> Iterator[Step]:
        """What an entry does. A block closes when another opens."""
        if not entry.text:
            return
        if entry.content is not ContentKind.TOOL_CALL:
            yield from self._grow(entry.content, entry.text, logprobs=entry.logprobs)
            return
        for line in entry.text.split("\n")[:-1]:
            call = orjson.loads(line)
            arguments = call.get("arguments", "")
            yield from self._grow(
                entry.content, arguments, call["index"], call.get("id", ""), call.get("name", ""), logprobs=""
            )

    def end(self) -> Iterator[Step]:
        """The reply is over."""
        if self._open is not None:
            yield Step(StepKind.CLOSED, self._open)
            self._open = None

    def _grow(
        self, kind: ContentKind, text: str, call_index: int = -1, call_id: str = "", name: str = "", *, logprobs: str
    ) -> Iterator[Step]:
        block = self._open
        if block is None or (block.kind, block.call_index) != (kind, call_index):
            yield from self.end()
            block = self._open = Block(len(self.all), kind, call_index, call_id, name)
            self.all.append(block)
            yield Step(StepKind.OPENED, block)
        if text:
            block.parts.append(text)
            block.logprobs = join_logprobs(block.logprobs, logprobs)
            yield Step(StepKind.GREW, block, text, logprobs)


def blocks_of(entries: Iterable[ReplyEntry]) -> list[Block]:
    """All blocks of a whole reply."""
    blocks = Blocks()
    for entry in entries:
        for _ in blocks.feed(entry):
            pass
    return blocks.all
