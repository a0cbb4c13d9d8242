"""Families whose calls stand behind a mark."""

from __future__ import annotations

from services.contracts.replies import ContentKind
from services.worker.parsers.marks import Found, Marks, may_become
from services.worker.parsers.thinking import ThinkingParser


class MarkedCalls(ThinkingParser):
    """Content up to one of `call_mark`, and a call behind it."""

    call_mark: Marks

    def _answer(self) -> bool:
        mark = self.call_mark.find(self._text, self._at, self._final)
        if mark.begin > self._at:
            return self._put(ContentKind.CONTENT, mark.begin - self._at)
        if not mark.word:
            return False
        called = self._behind_mark(mark)
        return self._put(ContentKind.CONTENT, mark.end - self._at) if called is None else called

    def _behind_mark(self, mark: Found) -> bool | None:
        """Read the mark and what follows it. None: no call does, and the mark is content."""
        raise AssertionError(f"a family says what follows {mark.word}")

    def _end_tag(self, tag: str) -> bool:
        """Read the tag that ends a call, where the model wrote it."""
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        if not self._final and may_become(self._text, self._at, tag):
            return False
        self._mode = self._after_tag
        if self._text.startswith(tag, self._at):
            self._put(ContentKind.TOOL_CALL, len(tag), "")
        return True

    def _after_tag(self) -> bool:
        """White space between a call and the rest of the answer is not shown."""
        if not self._skip_spaces(ContentKind.TOOL_CALL):
            self._mode = self._answer
        return True
