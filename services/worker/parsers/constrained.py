"""Answers that a grammar makes: an array of calls, or an object that holds calls or a text."""

from __future__ import annotations

import re

from services.contracts.replies import ContentKind
from services.worker.parsers.json_calls import ArrayCalls
from services.worker.parsers.json_text import read_string

_HEAD_MAX = 300
_CHOICE = re.compile(r'\s{0,64}\{\s{0,64}"(?:(tool_calls)"\s{0,64}:\s{0,64}\[|response"\s{0,64}:\s{0,64}")')
_HEADS = ('{"tool_calls":[', '{"response":"')


class CallsParser(ArrayCalls):
    """[{"name": "f", "arguments": {}}]. Anything else is content."""

    def _begin(self) -> bool:
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        self._mode = self._items if self._text[self._at] == "[" else self._plain
        return self._mode == self._plain or self._put(ContentKind.TOOL_CALL, 1, "")

    def _after_items(self) -> bool:
        return self._skip_spaces(ContentKind.TOOL_CALL) or self._plain()


class ChoiceParser(ArrayCalls):
    """{"tool_calls": [{"name": "f", "arguments": {}}]} or {"response": "text"}. Anything else is content."""

    def _begin(self) -> bool:
        found = _CHOICE.match(self._text, self._at, self._at + _HEAD_MAX)
        if found is None:
            if not self._final and self._may_be_head():
                return False
            self._mode = self._plain
            return True
        self._mode = self._items if found[1] else self._response
        content = ContentKind.TOOL_CALL if found[1] else ContentKind.CONTENT
        return self._put(content, found.end() - self._at, "")

    def _may_be_head(self) -> bool:
        begun = "".join(self._text[self._at : self._at + _HEAD_MAX].split())
        return len(self._text) - self._at < _HEAD_MAX and any(head.startswith(begun) for head in _HEADS)

    def _response(self) -> bool:
        part = read_string(self._text, self._at, self._final)
        if part.end > self._at:
            self._put(ContentKind.CONTENT, part.end - self._at, part.text)
        if part.closed:
            self._mode = self._after_items
        return part.closed

    def _after_items(self) -> bool:
        """The brackets that are left."""
        return self._put(self._content, len(self._text) - self._at, "")
