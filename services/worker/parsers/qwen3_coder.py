"""<tool_call><function=f><parameter=p>text</parameter></function></tool_call>, as Qwen3-Coder spells calls."""

from __future__ import annotations

import re

import orjson

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers.base import HELD_MAX
from services.worker.parsers.json_text import escaped, quoted
from services.worker.parsers.marked_calls import MarkedCalls
from services.worker.parsers.marks import Found, Marks, after_spaces, may_become

_VALUE_END = Marks("</parameter>", spaces="\n", spaces_max=1)
_FUNCTION, _PARAMETER = "<function=", "<parameter="
_ENDS = ("</function>", "</tool_call>")
_TAG_MAX = 300
_OPEN = re.compile(r"(?:<tool_call>\s{0,8})?<function=([^<>\s]{1,128})>")
_NEXT = re.compile(r"<parameter=([^<>\n]{1,256})>|</function>|</tool_call>")
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class Qwen3CoderParser(MarkedCalls):
    """Arguments become one JSON object. Values of strings stream; the others are held until they are whole, for what
    is no JSON becomes a string."""

    call_mark = Marks("<tool_call>", "<function=")

    def __init__(self, family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> None:
        self._name, self._parameters = "", 0
        self._searched = 0  # characters of a held value that hold no end
        super().__init__(family, output, chat, written)

    def _behind_mark(self, mark: Found) -> bool | None:
        mark_at = mark.end - len(mark.word)
        if found := _OPEN.match(self._text, mark_at, mark_at + _TAG_MAX):
            self._name, self._parameters, self._mode = found[1], 0, self._between
            return self._open_call(found.end() - self._at, self._name)
        return False if not self._final and self._opens(mark.end if mark.word != _FUNCTION else mark_at) else None

    def _opens(self, at: int) -> bool:
        """Whether a function's tag may come to stand at `at`."""
        at = after_spaces(self._text, at)
        return may_become(self._text, at, _FUNCTION) or _begun(self._text, at, _FUNCTION)

    def _between(self) -> bool:
        """Before a parameter, or the function's end."""
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        if found := _NEXT.match(self._text, self._at):
            return self._tag(found, found.end() - self._at, "")
        if not self._final and _may_be_next(self._text, self._at):
            return False
        self._mode = self._answer  # whatever it is, it is no part of a call
        return True

    def _tag(self, found: re.Match[str], length: int, before: str) -> bool:
        """Read a unit that ends with a tag: a parameter's, or the function's end. `before` ends the last value."""
        if found[1]:
            return self._parameter(found[1].strip(), length, before)
        arguments = before + ("}" if self._parameters else "{}")
        self.called = True
        self._mode = self._after_tag if found[0] == _ENDS[1] else self._after_function
        return self._argue(length, arguments)

    def _parameter(self, name: str, length: int, before: str) -> bool:
        arguments = f"{before}{', ' if self._parameters else '{'}{quoted(name)}: "
        self._parameters += 1
        self._searched = 0
        if self._output.parameters.get(self._name, {}).get(name, "string") == "string":
            self._mode = self._string_begins
            return self._argue(length, arguments + '"')
        self._mode = self._typed
        return self._argue(length, arguments)

    def _string_begins(self) -> bool:
        self._mode = self._string
        if self._text[self._at] == "\n":
            self._put(ContentKind.TOOL_CALL, 1, "")
        return True

    def _string(self) -> bool:
        begin, end, mark = _VALUE_END.find(self._text, self._at, self._final)
        if begin > self._at:
            return self._argue(begin - self._at, escaped(self._text[self._at : begin]))
        if not mark:
            return False
        tag = after_spaces(self._text, end, 16)
        if found := _NEXT.match(self._text, tag):
            return self._tag(found, found.end() - self._at, '"')
        if not self._final and _may_be_next(self._text, tag):
            return False
        return self._argue(end - self._at, escaped(self._text[self._at : end]))  # text that looks like the end

    def _typed(self) -> bool:
        """A value that is no string, as one unit with the tag behind it."""
        at = self._at + self._searched
        while True:
            begin, end, mark = _VALUE_END.find(self._text, at, self._final)
            if begin - self._at > HELD_MAX or (not mark and self._final):
                self._mode = self._string
                return self._argue(1, '"' + escaped(self._text[self._at]))
            self._searched = begin - self._at
            if not mark:
                return False
            tag = after_spaces(self._text, end, 16)
            if found := _NEXT.match(self._text, tag):
                return self._tag(found, found.end() - self._at, _json_of(self._text[self._at : begin]))
            if not self._final and _may_be_next(self._text, tag):
                return False
            at = end

    def _after_function(self) -> bool:
        return self._end_tag(_ENDS[1])


def _begun(text: str, at: int, tag: str) -> bool:
    """Whether the rest of the text is `tag` and a name that has not ended."""
    name = at + len(tag)
    return text.startswith(tag, at) and len(text) - name <= 256 and not any(sign in text[name:] for sign in "<>\n")


def _may_be_next(text: str, at: int) -> bool:
    return any(may_become(text, at, word) for word in (_PARAMETER, *_ENDS)) or _begun(text, at, _PARAMETER)


def _json_of(text: str) -> str:
    value = text.strip()
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return _PYTHON_WORDS.get(value) or quoted(text.removeprefix("\n"))
    return value
