r"""Regular expressions of JSON schemas, rewritten so that both engines' grammars mean the same by them.

The grammars write what a pattern matches between two quotes without escaping it, so a pattern must not let a quote, a
backslash or a control character through: `.` and negated classes are narrowed, `\s` is a space.
"""

from __future__ import annotations

import re

PATTERN_CHARS_MAX = 512
REPEATS_MAX = 256  # of one quantifier

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
_NOT_IN_STRINGS = r'"\\\x00-\x1f'
_ESCAPABLE = frozenset(r"^$.*+?()[]{}|/-")
_COUNTED = re.compile(r"\{(\d{1,4})(,(\d{0,4}))?\}")


class UnsupportedPattern(ValueError):
    """A pattern that the engines cannot follow; the message says why."""


def portable(pattern: str) -> tuple[str, int]:
    """The pattern in the dialect of both engines, and how many characters it spells out with all repetitions: compile
    time grows with them. Raises UnsupportedPattern."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise UnsupportedPattern(f"it is longer than {PATTERN_CHARS_MAX} characters")
    if not (pattern.startswith("^") and pattern.endswith("$")) or pattern.endswith(r"\$"):
        raise UnsupportedPattern("it must begin with ^ and end with $")
    text, chars = _Rewriter(pattern[1:-1]).whole()
    return f"^{text}$", chars


class _Rewriter:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> tuple[str, int]:
        """Everything, and its characters. Raises UnsupportedPattern."""
        found = self._alternatives()
        if self._at < len(self._pattern):
            raise UnsupportedPattern("it has a ) without a (")
        return found

    def _next(self) -> str:
        if self._at == len(self._pattern):
            raise UnsupportedPattern("it breaks off")
        self._at += 1
        return self._pattern[self._at - 1]

    def _peek(self, length: int = 1) -> str:
        return self._pattern[self._at : self._at + length]

    def _alternatives(self) -> tuple[str, int]:
        """Up to a closing bracket or the end."""
        parts, chars = [""], 0
        while self._peek() not in ("", ")"):
            if self._peek() == "|":
                self._at += 1
                parts.append("")
                continue
            atom, atom_chars = self._atom()
            quantifier, times = self._quantifier()
            parts[-1] += atom + quantifier
            chars += atom_chars * times
        return "|".join(parts), chars

    def _atom(self) -> tuple[str, int]:
        sign = self._next()
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._class(), 1
        if sign == ".":
            return f"[^{_NOT_IN_STRINGS}]", 1
        if sign == "\\":
            return self._escape(), 1
        if sign in "^$*+?{}":
            raise UnsupportedPattern(f"it has a {sign} where none is supported")
        return _literal(sign), 1

    def _group(self) -> tuple[str, int]:
        if self._peek() == "?":
            if self._peek(2) != "?:":
                raise UnsupportedPattern("only plain groups and (?: are supported")
            self._at += 2
        text, chars = self._alternatives()
        if self._next() != ")":
            raise UnsupportedPattern("it has a ( without a )")
        return f"({text})", chars

    def _escape(self) -> str:
        sign = self._next()
        if sign in _CLASSES:
            return f"[{_CLASSES[sign]}]"
        if sign.lower() in _CLASSES and sign != "S":
            return f"[^{_CLASSES[sign.lower()]}{_NOT_IN_STRINGS}]"
        if sign == "S":
            return f"[^ {_NOT_IN_STRINGS}]"
        if sign not in _ESCAPABLE:
            raise UnsupportedPattern(f"\\{sign} is not supported")
        return f"\\{sign}" if sign not in "/-" else sign

    def _class(self) -> str:
        negated = self._peek() == "^"
        self._at += negated
        parts = ""
        while (sign := self._next()) != "]" or not parts:
            if sign == "\\":
                parts += self._escape_in_class()
            elif sign == "[":
                parts += r"\["
            else:
                parts += _literal(sign)
        return f"[^{parts}{_NOT_IN_STRINGS}]" if negated else f"[{parts}]"

    def _escape_in_class(self) -> str:
        sign = self._next()
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign not in _ESCAPABLE:
            raise UnsupportedPattern(f"\\{sign} in a class is not supported")
        return f"\\{sign}" if sign in "]^-[" else sign

    def _quantifier(self) -> tuple[str, int]:
        sign = self._peek()
        if sign == "{":
            found = _COUNTED.match(self._pattern, self._at)
            if found is None:
                raise UnsupportedPattern("it has a { that counts nothing")
            self._at = found.end()
            quantifier, times = found[0], int(found[3] or found[1])
        elif sign and sign in "*+?":
            self._at += 1
            quantifier, times = sign, 1
        else:
            return "", 1
        if times > REPEATS_MAX:
            raise UnsupportedPattern(f"it repeats something more than {REPEATS_MAX} times")
        if self._peek() == "?":  # a lazy quantifier matches the same texts
            self._at += 1
        return quantifier, max(1, times)


def _literal(sign: str) -> str:
    if sign in '"\\' or ord(sign) < 0x20:
        raise UnsupportedPattern("quotes, backslashes and control characters are not supported")
    return sign
