"""What stands between an engine and the reply writer: a parser says what each piece of an answer is.

One parser a model family, chosen from its chat template. It holds a chat's state and gateways hold none, so a stream
can be resumed at any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from services.contracts.replies import ContentKind


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

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        """What is certain after this piece of the engine's, in order.

        Text that may still turn out to be a marker is held back, with its tokens and their logprobs.
        """

    def finish(self) -> Sequence[Parsed]:
        """What was held back, at the end of the answer."""


class ContentParser:
    """All text is content."""

    called = False

    def __init__(self, written: str) -> None:
        """`written` changes nothing: each piece stands for itself."""

    def feed(self, text: str, tokens: int, logprobs: str = "") -> Sequence[Parsed]:
        """The piece itself."""
        return (Parsed(ContentKind.CONTENT, text, tokens, None, logprobs),) if text or tokens else ()

    def finish(self) -> Sequence[Parsed]:
        """Nothing is ever held back."""
        return ()


_BY_MARKER: Mapping[str, Callable[[str], Parser]] = {}  # what only this family's chat template holds -> its parser


def parser_of(template: str) -> Callable[[str], Parser]:
    """The parser of the model with this chat template ("" where it has none). Call it with what was written so far."""
    return next((parser for marker, parser in _BY_MARKER.items() if marker in template), ContentParser)
