"""<|tool_call>call:f{p:<|"|>text<|"|>}<tool_call|>, as Gemma's models spell calls."""

from __future__ import annotations

import re

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers.json_text import JsonEnd, escaped, quoted
from services.worker.parsers.marked_calls import MarkedCalls
from services.worker.parsers.marks import Found, Marks, may_become

_MARKS = {"<|tool_call>": ("<tool_call|>", '<|"|>'), "<start_function_call>": ("<end_function_call>", "<escape>")}
_QUOTES = {quote: Marks(quote, spaces="") for _, quote in _MARKS.values()}
_NAME_MAX = 200
_NAMED = re.compile(r"\s{0,8}call:\s{0,8}([\w.\-]{1,128})\s{0,8}\{")
_NAME_BEGUN = re.compile(rf"[\w.\-:\s]{{0,{_NAME_MAX}}}")
_KEY_END, _KEY_MAX = re.compile(r"[:,{}\[\]<]"), 256
_VALUE_END, _VALUE_MAX = re.compile(r"[,{}\[\]<]"), 4096
_LITERAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")


class GemmaParser(MarkedCalls):
    """Arguments become JSON as they come: keys get quotes, and so do words that are no numbers."""

    call_mark = Marks(*_MARKS)

    def __init__(self, family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> None:
        self._end_mark = self._quote = ""
        self._brackets: list[str] = []  # that are open
        self._in_key = False
        self._json = JsonEnd()  # of a string in JSON's own quotes
        super().__init__(family, output, chat, written)

    def _behind_mark(self, mark: Found) -> bool | None:
        if found := _NAMED.match(self._text, mark.end, mark.end + _NAME_MAX):
            self._end_mark, self._quote = _MARKS[mark.word]
            self._brackets, self._in_key, self._mode = ["{"], True, self._arguments
            return self._open_call(found.end() - self._at, found[1], "{")
        return False if not self._final and _NAME_BEGUN.fullmatch(self._text, mark.end) else None

    def _arguments(self) -> bool:
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        sign = self._text[self._at]
        if sign in "{}[],:":
            return self._sign(sign)
        if sign == "<":
            return self._mark()
        if sign == '"':
            self._json, self._mode = JsonEnd(), self._json_string
            return True
        return self._word()

    def _sign(self, sign: str) -> bool:
        if sign in "{[":
            self._brackets.append(sign)
        elif sign in "}]":
            self._brackets.pop()
        self._in_key = sign != ":" and self._brackets[-1:] == ["{"]
        if not self._brackets:
            self._end()
        return self._argue(1)

    def _mark(self) -> bool:
        """A quote, or the call's end before its brackets are closed."""
        if self._text.startswith(self._quote, self._at):
            self._mode = self._string
            return self._argue(len(self._quote), '"')
        if self._text.startswith(self._end_mark, self._at):
            self._end()
            return True
        if not self._final and any(may_become(self._text, self._at, word) for word in (self._quote, self._end_mark)):
            return False
        return self._argue(1)

    def _word(self) -> bool:
        """A key or a value without quotes; what ends it has to be there."""
        size_max = _KEY_MAX if self._in_key else _VALUE_MAX
        found = (_KEY_END if self._in_key else _VALUE_END).search(self._text, self._at, self._at + size_max)
        if found is None and len(self._text) - self._at < size_max and not self._final:
            return False
        end = found.start() if found else min(len(self._text), self._at + size_max)
        word = self._text[self._at : end].strip()
        literal = not self._in_key and _LITERAL.fullmatch(word)
        return self._argue(end - self._at, word if literal else quoted(word))

    def _string(self) -> bool:
        begin, end, mark = _QUOTES[self._quote].find(self._text, self._at, self._final)
        if begin > self._at:
            return self._argue(begin - self._at, escaped(self._text[self._at : begin]))
        if not mark:
            return False
        self._mode = self._arguments
        return self._argue(end - self._at, '"')

    def _json_string(self) -> bool:
        end, done = self._json.scan(self._text, self._at, self._final)
        if done:
            self._mode = self._arguments
        return self._argue(end - self._at) and done

    def _end(self) -> None:
        self.called = True
        self._mode = self._after_arguments

    def _after_arguments(self) -> bool:
        return self._end_tag(self._end_mark)
