"""Markers in a text that comes in parts: where one begins, and how much of the text is certain to come before one."""

from __future__ import annotations

import re
from typing import NamedTuple

SPACES = " \t\r\n"


class Found(NamedTuple):
    """`begin` is where the certain text ends. `word` is the marker there, which ends at `end`; "": none came yet."""

    begin: int
    end: int = 0
    word: str = ""


class Marks:
    """Looks for any of `words`. Up to `spaces_max` characters of `spaces` before one are a part of it."""

    def __init__(self, *words: str, spaces: str = SPACES, spaces_max: int = 8) -> None:
        self._words, self._spaces, self._spaces_max = words, spaces, spaces_max
        self._pattern = re.compile("|".join(map(re.escape, words)))
        self._tail = max(map(len, words)) - 1
        self._firsts = "".join({word[0] for word in words})

    def find(self, text: str, at: int, final: bool) -> Found:
        """The first from `at` on. Once `final`, what only may become a marker is text."""
        if found := self._pattern.search(text, at):
            return Found(self._before_spaces(text, at, found.start()), found.end(), found[0])
        return Found(len(text) if final else self._before_spaces(text, at, self._partial(text, at)))

    def _partial(self, text: str, at: int) -> int:
        """Where a marker may have begun; the text's end where none has."""
        for begin in range(max(at, len(text) - self._tail), len(text)):
            if text[begin] in self._firsts and any(word.startswith(text[begin:]) for word in self._words):
                return begin
        return len(text)

    def _before_spaces(self, text: str, at: int, end: int) -> int:
        begin, least = end, max(at, end - self._spaces_max)
        while begin > least and text[begin - 1] in self._spaces:
            begin -= 1
        return begin


def may_become(text: str, at: int, word: str) -> bool:
    """Whether the rest of the text is a beginning of `word`."""
    return len(text) - at < len(word) and word.startswith(text[at:])


def after_spaces(text: str, at: int, spaces_max: int = 8) -> int:
    """Where at most so many characters of white space end."""
    end = min(len(text), at + spaces_max)
    while at < end and text[at] in SPACES:
        at += 1
    return at
