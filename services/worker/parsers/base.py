"""What a parser is, and the machine that all but the plainest are built on.

A machine reads the model's text in units: some text, or a whole marker or header. What a unit is depends on the text
from there on and on the units before, never on how the engine cut the text, and never on text that it leaves unread.
So a machine that has read what earlier attempts wrote is where they were, wherever they broke off between two units.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple, Protocol

import orjson

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind, ToolCallDelta, join_logprobs
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers.marks import SPACES

HELD_MAX = 1 << 16  # characters that a machine may hold back


class Parsed(NamedTuple):
    """A part of an answer on its way to the reply stream."""

    content: ContentKind
    text: str
    tokens: int
    raw: str | None = None  # the model's own text of this part; None: it is `text`
    logprobs: str = ""  # JSON array of OpenAI's logprobs.content items, of these tokens


class Parser(Protocol):
    """One attempt of one chat. It is made with the raw text that earlier attempts wrote, and goes on after it."""

    called: bool  # the answer holds a whole tool call, from an earlier attempt perhaps

    @property
    def end_of_thoughts(self) -> str:
        """What the model would write to end the thoughts that the answer is in; "": it is in none."""

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        """What is certain after this piece of the engine's, in order.

        Text that may still turn out to be a marker is held back, with its tokens and their logprobs.
        """

    def finish(self) -> Sequence[Parsed]:
        """What was held back, at the end of the answer."""


class ContentParser:
    """All text is content."""

    called = False
    end_of_thoughts = ""

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        """The piece itself."""
        return (Parsed(ContentKind.CONTENT, text, tokens, None, logprobs),) if text or tokens else ()

    def finish(self) -> Sequence[Parsed]:
        """Nothing is ever held back."""
        return ()


class Unit(NamedTuple):
    """What a machine made of some text: a text of its own, or parts of tool calls."""

    content: ContentKind
    raw: str
    text: str
    deltas: Sequence[ToolCallDelta]


class Machine:
    """A subclass gives modes. A mode reads a unit of `_text` from `_at` on, or changes the mode, and answers True; or
    it answers False: more text is needed to decide. Once `_final`, no more will come: text held back is what it says.
    """

    def __init__(self, family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> None:
        self.called = False
        self._family, self._output, self._chat = family, output, chat
        self._mode: Callable[[], bool] = self._begin
        self._text, self._at, self._final = "", 0, False
        self._units: list[Unit] = []
        self._content = ContentKind.CONTENT  # of the last unit
        self._calls = 0
        self._fed, self._read = 0, 0  # characters
        self._tokens: deque[tuple[int, int, str]] = deque()  # for pieces not read yet: end, tokens, logprobs
        if written:
            self.feed(written, 0)
            self.finish()
            self._final = False

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        """What is certain after this piece."""
        self._fed += len(text)
        if tokens or logprobs:
            self._tokens.append((self._fed, tokens, logprobs))
        held, self._text = self._text, ""
        held += text  # in place, for nothing else refers to it
        self._text = held
        return self._parts()

    def finish(self) -> Sequence[Parsed]:
        """What was held back."""
        self._final = True
        return self._parts()

    @property
    def end_of_thoughts(self) -> str:
        """None, by default."""
        return ""

    def _begin(self) -> bool:
        """The first mode."""
        return self._plain()

    def _plain(self) -> bool:
        """All further text is content."""
        return self._put(ContentKind.CONTENT, len(self._text) - self._at)

    def _put(
        self, content: ContentKind, length: int, text: str | None = None, deltas: Sequence[ToolCallDelta] = ()
    ) -> bool:
        """Read a unit; `text` is its raw text by default. True, as modes answer."""
        raw = self._text[self._at : self._at + length]
        self._at += length
        self._units.append(Unit(content, raw, raw if text is None else text, deltas))
        self._content = content
        return True

    def _skip_spaces(self, content: ContentKind) -> bool:
        """Read white space that nobody sees. False where there is none."""
        end = self._at
        while end < len(self._text) and self._text[end] in SPACES:
            end += 1
        return end > self._at and self._put(content, end - self._at, "")

    def _open_call(self, length: int, name: str, arguments: str = "") -> bool:
        """Read a unit that begins a call."""
        index = self._calls
        self._calls += 1
        deltas = [ToolCallDelta(index, call_id(self._chat, index), name)]
        if arguments:
            deltas.append(ToolCallDelta(index, arguments=arguments))
        return self._put(ContentKind.TOOL_CALL, length, "", deltas)

    def _argue(self, length: int, arguments: str | None = None) -> bool:
        """Read a unit of the last call's arguments; they are its raw text by default."""
        arguments = self._text[self._at : self._at + length] if arguments is None else arguments
        deltas = [ToolCallDelta(self._calls - 1, arguments=arguments)] if arguments else []
        return self._put(ContentKind.TOOL_CALL, length, "", deltas)

    def _parts(self) -> Sequence[Parsed]:
        while self._at < len(self._text):
            if not self._mode():
                break
        if self._at:
            self._text, self._at = self._text[self._at :], 0
        units, self._units = self._units, []
        if len(units) == 1:  # nearly always
            return [self._parsed(units)]
        parts = [self._parsed(list(of_one_kind)) for _, of_one_kind in groupby(units, key=lambda unit: unit.content)]
        if not parts and self._tokens and self._tokens[0][0] <= self._read:  # tokens without text
            parts.append(self._parsed([Unit(self._content, "", "", ())]))
        return parts

    def _parsed(self, units: Sequence[Unit]) -> Parsed:
        """Neighbouring units of one kind as one part."""
        raw = "".join(unit.raw for unit in units)
        if units[0].content is ContentKind.TOOL_CALL:
            text = lines([delta for unit in units for delta in unit.deltas])
        else:
            text = "".join(unit.text for unit in units)
        self._read += len(raw)
        tokens, logprobs = 0, ""
        while self._tokens and self._tokens[0][0] <= self._read:
            _, more, items = self._tokens.popleft()
            tokens, logprobs = tokens + more, join_logprobs(logprobs, items)
        return Parsed(units[0].content, text, tokens, None if raw == text else raw, logprobs)


def call_id(chat: str, index: int) -> str:
    """The same for each attempt of a chat."""
    return "call_" + blake2b(f"{chat}/{index}".encode(), digest_size=12).hexdigest()


def lines(deltas: Sequence[ToolCallDelta]) -> str:
    """The text of a TOOL_CALL piece: a line of JSON for each beginning of a call, and one for its arguments."""
    text = []
    for (index, name), of_one in groupby(deltas, key=lambda delta: (delta.index, delta.name)):
        if name:
            fields: dict[str, int | str] = {"index": index, "id": next(of_one).id, "name": name}
        else:
            fields = {"index": index, "arguments": "".join(delta.arguments for delta in of_one)}
        text.append(orjson.dumps(fields).decode() + "\n")
    return "".join(text)
