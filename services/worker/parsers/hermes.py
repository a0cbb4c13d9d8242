"""<tool_call>{"name": "f", "arguments": {}}</tool_call>, as Hermes and Qwen spell calls."""

from __future__ import annotations

from services.contracts.replies import ContentKind
from services.worker.parsers.json_calls import JsonCalls
from services.worker.parsers.marks import Marks, may_become


class HermesParser(JsonCalls):
    """An object without its closing tag counts; several objects may share one pair of tags."""

    call_mark = Marks("<tool_call>")
    end_mark = "</tool_call>"

    def _after_call(self) -> bool:
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        if self._text.startswith(self.end_mark, self._at):
            self._mode = self._after_tag
            return self._put(ContentKind.TOOL_CALL, len(self.end_mark), "")
        if not self._final and may_become(self._text, self._at, self.end_mark):
            return False
        called = self._object(self._at)
        if called is None:
            self._mode = self._answer
        return called is not False
