"""What a bot knows, in pieces that fit a prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, or an FAQ pair: then `question` is not empty, and `text` is its answer."""

    title: str
    text: str
    question: str = ""
    url: str | None = None
    source: str = ""  # id of what was added: a document, a pair, a file
