"""JSON in a text that comes in parts: where a value ends, and what a string says.

Libraries for partial JSON parse all that came so far, again and again; these read each character once.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import orjson

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'[{}\[\]"<]')
_SCALAR_END = re.compile(r"[\s,}\]<]")
_SPACES = re.compile(r"\s*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_CODE_BEGUN = re.compile(r"(?:\\(?:u[0-9a-fA-F]{0,3})?)?")
_LONE_SURROGATE = "\ufffd"


class JsonEnd:
    """Finds the end of one value. `depth` is 1 where its bracket was read before.

    It does not check the value. `mark` ends it, too, outside of strings, where it never stands in valid JSON.
    """

    def __init__(self, depth: int = 0, mark: str = "") -> None:
        self._depth, self._mark = depth, mark
        self.begun = depth > 0
        self._string = self._escaped = self._scalar = False

    def scan(self, text: str, at: int, final: bool) -> tuple[int, bool]:
        """How far the value certainly goes, and whether it ends there. Go on from there with more text."""
        while at < len(text):
            at, ended = self._step(text, at, final)
            if ended is not None:
                return at, ended
        return at, False

    def _step(self, text: str, at: int, final: bool) -> tuple[int, bool | None]:
        """Read on up to the next sign that matters. None: the value goes on."""
        if self._escaped:
            self._escaped = False
            return at + 1, None
        if self._string:
            return self._in_string(text, at)
        if self._scalar:
            found = _SCALAR_END.search(text, at)
            return (len(text), False) if found is None else (found.start(), True)
        if self.begun:
            return self._outside(text, at, final)
        at = _SPACES.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
        return at, self._first(text[at]) if at < len(text) else False

    def _first(self, sign: str) -> bool | None:
        """Look at a value's first character; True where there is no value."""
        self.begun = True
        self._scalar = sign not in '{["'
        return True if sign in ",}]" else None

    def _in_string(self, text: str, at: int) -> tuple[int, bool | None]:
        found = _IN_STRING.search(text, at)
        if found is None:
            return len(text), False
        self._escaped = found[0] == "\\"
        self._string = self._escaped
        return found.end(), True if not self._string and self._depth == 0 else None

    def _outside(self, text: str, at: int, final: bool) -> tuple[int, bool | None]:
        found = _OUTSIDE.search(text, at)
        if found is None:
            return len(text), False
        if found[0] == "<":
            if self._mark and text.startswith(self._mark, found.start()):
                return found.start(), True
            cut = self._mark and not final and self._mark.startswith(text[found.start() :])
            return (found.start(), False) if cut else (found.end(), None)
        if found[0] == '"':
            self._string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
        return found.end(), True if found[0] in "}]" and self._depth <= 0 else None


class StringPart(NamedTuple):
    """`text` is what the string says up to `end`, and `closed`, whether its closing quote came before that."""

    text: str
    end: int
    closed: bool


def read_string(text: str, at: int, final: bool) -> StringPart:
    """Read on in a JSON string. An escape that is cut is left; a wrong one, or a cut one once `final`, is text."""
    parts = []
    while found := _IN_STRING.search(text, at):
        parts.append(text[at : found.start()])
        if found[0] == '"':
            return StringPart("".join(parts), found.end(), True)
        said, end = _escape(text, found.start(), final)
        if not end:
            return StringPart("".join(parts), found.start(), False)
        parts.append(said)
        at = end
    parts.append(text[at:])
    return StringPart("".join(parts), len(text), False)


def _escape(text: str, at: int, final: bool) -> tuple[str, int]:
    """What the escape at `at` says, and its end; 0 where it is cut."""
    sign = text[at + 1 : at + 2]
    if not sign and not final:
        return "", 0
    if sign != "u":
        return _ESCAPES.get(sign, sign or "\\"), min(at + 2, len(text))
    code = _code(text, at)
    if code is None:
        return ("", 0) if not final and _CODE_BEGUN.fullmatch(text, at) else ("\\u", at + 2)
    if not 0xD800 <= code < 0xDC00:
        return (_LONE_SURROGATE if 0xDC00 <= code < 0xE000 else chr(code)), at + 6
    low = _code(text, at + 6)
    if low is not None and 0xDC00 <= low < 0xE000:
        return chr(0x10000 + ((code - 0xD800) << 10) + low - 0xDC00), at + 12
    cut = low is None and not final and _CODE_BEGUN.fullmatch(text, at + 6)
    return ("", 0) if cut else (_LONE_SURROGATE, at + 6)


def _code(text: str, at: int) -> int | None:
    found = _CODE.match(text, at)
    return None if found is None else int(found[1], 16)


def quoted(text: str) -> str:
    """A JSON string."""
    return orjson.dumps(text).decode()


def escaped(text: str) -> str:
    """The inside of a JSON string."""
    return quoted(text)[1:-1]
