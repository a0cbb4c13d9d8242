"""A call as a JSON object, {"name": "f", "arguments": {...}}, in a text that comes in parts."""

from __future__ import annotations

import re
from collections.abc import Container
from enum import Enum
from json import JSONDecodeError, loads

from services.worker.parsers.base import HELD_MAX
from services.worker.parsers.json_text import JsonEnd

_NAMES, _ARGUMENTS = ("name", "function"), ("arguments", "parameters")
_OTHERS = ("type", "id")  # known, and of no use here
_STRING = r'"(?:[^"\\]|\\.){0,256}"'
_KEY = re.compile(rf"\s{{0,64}}({_STRING})\s{{0,64}}:")
_NAME = re.compile(rf"\s{{0,64}}({_STRING})")
_NEXT = re.compile(r"\s{0,64}([,}])")
_STRING_BEGUN = r'"(?:[^"\\]|\\.){0,256}\\?'
_KEY_BEGUN = re.compile(rf"\s{{0,64}}(?:{_STRING_BEGUN}|{_STRING}\s{{0,64}})?")
_NAME_BEGUN = re.compile(rf"\s{{0,64}}(?:{_STRING_BEGUN})?")
_NEXT_BEGUN = re.compile(r"\s{0,64}")


class Read(Enum):
    """What is known of a call's object."""

    MORE = "more"  # nothing yet
    OPEN = "open"  # its name; its arguments begin at `end`
    WHOLE = "whole"  # its name, and its arguments, which came first or not at all
    BROKEN = "broken"  # it is none


class _NeedsMore(Exception):
    """The text ends too early."""


class _Broken(Exception):
    """The object is none that calls."""


class CallObject:
    """Reads one object up to its arguments, or past its name where they came before it.

    `names`: an object is a call only if it has one of these names and no key that calls do not have. None: any name.
    """

    def __init__(self, names: Container[str] | None = None) -> None:
        self.name, self.arguments = "", "{}"
        self.closed = False  # its closing bracket was read, too
        self.end = 1  # of what was read, counted from the object's bracket
        self._names = names
        self._early: tuple[int, int] | None = None  # arguments before the name
        self._step = self._key
        self._value_begins, self._value = 0, JsonEnd()

    def read(self, text: str, begin: int) -> Read:
        """Go on with more text; the object's bracket is at `begin`."""
        try:
            while self.end <= HELD_MAX:
                if found := self._step(text, begin):
                    return found
        except _NeedsMore:
            return Read.MORE if len(text) - begin <= HELD_MAX else Read.BROKEN
        except _Broken:
            pass
        return Read.BROKEN

    def _key(self, text: str, begin: int) -> Read | None:
        key = _text_of(self._match(_KEY, _KEY_BEGUN, text, begin))
        if self._names is not None and key not in (*_NAMES, *_ARGUMENTS, *_OTHERS):
            raise _Broken
        if key in _NAMES and not self.name:
            self._step = self._name
        elif key in _ARGUMENTS and self.name:
            return Read.OPEN
        else:
            self._value_begins, self._value = self.end, JsonEnd()
            self._step = self._early_arguments if key in _ARGUMENTS else self._other
        return None

    def _name(self, text: str, begin: int) -> Read | None:
        self.name = _text_of(self._match(_NAME, _NAME_BEGUN, text, begin))
        if not self.name or (self._names is not None and self.name not in self._names):
            raise _Broken
        self._step = self._next
        if self._early is None:
            return None
        first, end = self._early
        self.arguments = text[begin + first : begin + end].strip()
        return Read.WHOLE

    def _early_arguments(self, text: str, begin: int) -> None:
        self._skip(text, begin)
        self._early = (self._value_begins, self.end)

    def _other(self, text: str, begin: int) -> None:
        self._skip(text, begin)

    def _skip(self, text: str, begin: int) -> None:
        """Read a value."""
        end, done = self._value.scan(text, begin + self.end, False)
        self.end = end - begin
        if not done:
            raise _NeedsMore
        self._step = self._next

    def _next(self, text: str, begin: int) -> Read | None:
        if self._match(_NEXT, _NEXT_BEGUN, text, begin) == ",":
            self._step = self._key
            return None
        if not self.name:
            raise _Broken
        self.closed = True
        return Read.WHOLE

    def _match(self, whole: re.Pattern[str], begun: re.Pattern[str], text: str, begin: int) -> str:
        at = begin + self.end
        if found := whole.match(text, at):
            self.end = found.end() - begin
            return found[1]
        raise _NeedsMore if begun.fullmatch(text, at) else _Broken


def _text_of(string: str) -> str:
    try:
        return str(loads(string, strict=False))
    except JSONDecodeError:
        return string[1:-1]
