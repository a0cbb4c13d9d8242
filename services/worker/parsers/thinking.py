"""Thoughts between two tags at an answer's beginning."""

from __future__ import annotations

from services.contracts.chats import OutputFormat
from services.contracts.replies import ContentKind
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers.base import Machine
from services.worker.parsers.marks import Marks, after_spaces, may_become


class ThinkingParser(Machine):
    """Thoughts, where the family has tags for them, then `_answer`. White space around the tags is not shown."""

    def __init__(self, family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> None:
        self._end_of_thoughts = Marks(family.think_end or "</think>")
        super().__init__(family, output, chat, written)

    @property
    def end_of_thoughts(self) -> str:
        """The closing tag, set as models of its family set it."""
        inside = self._mode in (self._think_from_here, self._think)
        if not inside and not (self._mode == self._begin and self._output.thinking):
            return ""
        return f"\n{self._family.think_end}\n\n" if self._family.think_end == "</think>" else self._family.think_end

    def _begin(self) -> bool:
        """Text before any tag."""
        if not self._family.think_end:
            return self._answer_from_here()
        tag = after_spaces(self._text, self._at)
        if self._text.startswith(self._family.think_begin, tag):
            self._mode = self._think_from_here
            return self._put(ContentKind.REASONING, tag + len(self._family.think_begin) - self._at, "")
        if not self._final and may_become(self._text, tag, self._family.think_begin):
            return False
        if self._output.thinking:  # the prompt ends behind the tag
            self._mode = self._think_from_here
            return True
        return self._answer_from_here()

    def _think_from_here(self) -> bool:
        if self._skip_spaces(ContentKind.REASONING):
            return True
        self._mode = self._think
        return True

    def _think(self) -> bool:
        begin, end, tag = self._end_of_thoughts.find(self._text, self._at, self._final)
        if begin > self._at:
            return self._put(ContentKind.REASONING, begin - self._at)
        if not tag:
            return False
        self._mode = self._answer_from_here
        return self._put(ContentKind.REASONING, end - self._at, "")

    def _answer_from_here(self) -> bool:
        if self._content is ContentKind.REASONING and self._skip_spaces(ContentKind.REASONING):
            return True
        self._mode = self._answer
        return True

    def _answer(self) -> bool:
        """The answer proper."""
        return self._plain()
