"""[TOOL_CALLS][{"name": "f", "arguments": {}}] or [TOOL_CALLS]f[ARGS]{}, as Mistral's models spell calls."""

from __future__ import annotations

import re

from services.contracts.replies import ContentKind
from services.worker.parsers.json_calls import ArrayCalls
from services.worker.parsers.json_text import JsonEnd
from services.worker.parsers.marks import Found, Marks, after_spaces

_NAME_MAX = 300  # characters of a name and what stands around it
_NAMED = re.compile(r"\s{0,8}([\w.\-]{1,128})(?:\[CALL_ID\]\w{0,64})?(?:\[ARGS\])?\s{0,8}\{")
_NAME_BEGUN = re.compile(rf"[\w.\-\[\]\s]{{0,{_NAME_MAX}}}")


class MistralParser(ArrayCalls):
    """Ids of its own are not used."""

    call_mark = Marks("[TOOL_CALLS]")

    def _behind_mark(self, mark: Found) -> bool | None:
        at = mark.end
        bracket = after_spaces(self._text, at)
        if self._text.startswith("[", bracket):
            self._mode = self._items
            return self._put(ContentKind.TOOL_CALL, bracket + 1 - self._at, "")
        if found := _NAMED.match(self._text, at, at + _NAME_MAX):
            self._json, self._in_object, self._mode = JsonEnd(1), False, self._arguments
            return self._open_call(found.end() - self._at, found[1], "{")
        return False if not self._final and _NAME_BEGUN.fullmatch(self._text, at) else None

    def _after_call(self) -> bool:
        self._mode = self._items if self._in_object else self._after_tag
        return True

    def _after_items(self) -> bool:
        return self._after_tag()
