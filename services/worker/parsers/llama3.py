"""{"name": "f", "parameters": {}} at an answer's beginning, or behind <|python_tag|>, as Llama 3 spells calls."""

from __future__ import annotations

from collections.abc import Container

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers.json_calls import JsonCalls
from services.worker.parsers.marks import Marks


class Llama3Parser(JsonCalls):
    """Only an object that names one of the request's tools is a call, for nothing else need mark it."""

    call_mark = Marks("<|python_tag|>")

    def __init__(self, family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> None:
        self._first = True  # nothing of the answer was read
        super().__init__(family, output, chat, written)

    def _names(self) -> Container[str] | None:
        return self._output.parameters or None

    def _answer(self) -> bool:
        if not self._first:
            return super()._answer()
        called = self._object(self._at)
        self._first = called is False
        return called is not False

    def _after_call(self) -> bool:
        """Further calls may come behind a semicolon."""
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        if self._text[self._at] in ";,":
            return self._put(ContentKind.TOOL_CALL, 1, "")
        called = self._object(self._at)
        if called is None:
            self._mode = self._answer
        return called is not False
