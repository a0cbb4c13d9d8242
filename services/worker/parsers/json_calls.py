"""Families that spell calls as JSON objects behind a mark of their own."""

from __future__ import annotations

from collections.abc import Container

from services.contracts.replies import ContentKind
from services.worker.parsers.call_object import CallObject, Read
from services.worker.parsers.json_text import JsonEnd, read_string
from services.worker.parsers.marked_calls import MarkedCalls
from services.worker.parsers.marks import Found, after_spaces


class JsonCalls(MarkedCalls):
    """`_after_call` is the mode behind a call's object."""

    end_mark = ""  # what also ends arguments that are broken
    _reader: CallObject | None = None  # of an object that may be a call
    _json = JsonEnd()  # of the value that is read
    _in_object = True  # the arguments stand in an object, which goes on behind them

    def _behind_mark(self, mark: Found) -> bool | None:
        return self._object(mark.end)

    def _after_call(self) -> bool:
        raise AssertionError("a family says what follows a call")

    def _names(self) -> Container[str] | None:
        """See CallObject."""
        return None

    def _object(self, at: int) -> bool | None:
        """Read what comes before `at`, and the beginning of an object there, as one unit. None: it is no call."""
        at = after_spaces(self._text, at)
        if at == len(self._text) and not self._final:
            return False
        if not self._text.startswith("{", at):
            return None
        reader = self._reader = self._reader or CallObject(self._names())
        read = reader.read(self._text, at)
        if read is Read.MORE and not self._final:
            return False
        self._reader = None
        length = at + reader.end - self._at
        self._in_object = True
        if read is Read.OPEN:
            self._json, self._mode = JsonEnd(0, self.end_mark), self._arguments
            return self._open_call(length, reader.name)
        if read is Read.WHOLE:
            self.called = True
            self._json, self._mode = JsonEnd(1, self.end_mark), self._after_call if reader.closed else self._members
            return self._open_call(length, reader.name, reader.arguments)
        return None

    def _arguments(self) -> bool:
        if not self._json.begun:
            if self._skip_spaces(ContentKind.TOOL_CALL):
                return True
            if self._text[self._at] == '"':  # the arguments as a text of JSON
                self._mode = self._quoted_arguments
                return self._put(ContentKind.TOOL_CALL, 1, "")
        end, done = self._json.scan(self._text, self._at, self._final)
        if end > self._at:
            self._argue(end - self._at)
        if done:
            self._end_arguments()
        return done

    def _quoted_arguments(self) -> bool:
        part = read_string(self._text, self._at, self._final)
        if part.end > self._at:
            self._argue(part.end - self._at, part.text)
        if part.closed:
            self._end_arguments()
        return part.closed

    def _end_arguments(self) -> None:
        self.called = True
        self._json, self._mode = JsonEnd(1, self.end_mark), self._members if self._in_object else self._after_call

    def _members(self) -> bool:
        """What follows the arguments in their object; nobody needs it."""
        end, done = self._json.scan(self._text, self._at, self._final)
        if end > self._at:
            self._put(ContentKind.TOOL_CALL, end - self._at, "")
        if done:
            self._mode = self._after_call
        return done


class ArrayCalls(JsonCalls):
    """Calls as objects in an array. `_after_items` is the mode behind it."""

    def _items(self) -> bool:
        if self._skip_spaces(ContentKind.TOOL_CALL):
            return True
        if (sign := self._text[self._at]) in ",]":
            if sign == "]":
                self._mode = self._after_items
            return self._put(ContentKind.TOOL_CALL, 1, "")
        called = self._object(self._at)
        if called is None:
            self._mode = self._plain
        return called is not False

    def _after_call(self) -> bool:
        self._mode = self._items
        return True

    def _after_items(self) -> bool:
        raise AssertionError("a family says what follows its array")
