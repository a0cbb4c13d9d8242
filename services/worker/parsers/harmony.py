"""<|channel|>analysis<|message|>...<|end|>, gpt-oss's messages: thoughts, calls and text in channels."""

from __future__ import annotations

import re

from services.contracts.chats import OutputFormat, ToolFormat
from services.contracts.replies import ContentKind
from services.tokenizer.template_family import TemplateFamily
from services.worker.parsers.base import Machine
from services.worker.parsers.json_text import JsonEnd
from services.worker.parsers.marks import Marks, after_spaces, may_become

_HEAD_MAX = 512
_MESSAGE = "<|message|>"
_HEADS = ("<|start|>", "<|channel|>", "to=", _MESSAGE)
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_MARKS = Marks(*_ENDS, *_HEADS[:2], spaces="")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([\w.\-]+)")


class HarmonyParser(Machine):
    """A message begins with a head, which ends with <|message|>. Text without one, as a grammar may make it, is
    content."""

    def __init__(self, family: TemplateFamily, output: OutputFormat, chat: str, written: str) -> None:
        self._kind = ContentKind.CONTENT  # of the message
        self._json = JsonEnd()  # of a call's arguments
        self._said = self._whole = False  # some of them, all of them
        super().__init__(family, output, chat, written)

    @property
    def end_of_thoughts(self) -> str:
        """The end of the message, and the next one's head."""
        inside = self._mode == self._body and self._kind is ContentKind.REASONING
        return "<|end|><|start|>assistant<|channel|>final<|message|>" if inside else ""

    def _begin(self) -> bool:
        end = self._text.find(_MESSAGE, self._at, self._at + _HEAD_MAX)
        if self._may_be_head():
            if end >= 0:
                return self._head(end + len(_MESSAGE))
            if not self._final and len(self._text) - self._at < _HEAD_MAX:
                return False
        self._kind, self._mode = ContentKind.CONTENT, self._body
        mark = next((mark for mark in _HEADS[:2] if self._text.startswith(mark, self._at)), "")
        return not mark or self._put(ContentKind.CONTENT, len(mark))  # a mark that begins nothing

    def _may_be_head(self) -> bool:
        at = after_spaces(self._text, self._at)
        return self._text.startswith(_HEADS, at) or any(may_become(self._text, at, word) for word in _HEADS)

    def _head(self, end: int) -> bool:
        head = self._text[self._at : end]
        channel, recipient = _CHANNEL.search(head), _RECIPIENT.search(head)
        self._mode = self._body
        if recipient and self._output.tools is ToolFormat.FAMILY:
            self._kind, self._json, self._said, self._whole = ContentKind.TOOL_CALL, JsonEnd(), False, False
            return self._open_call(end - self._at, recipient[1])
        thoughts = channel is not None and channel[1] == "analysis"
        self._kind = ContentKind.REASONING if thoughts else ContentKind.CONTENT
        return self._put(self._kind, end - self._at, "")

    def _body(self) -> bool:
        begin, end, mark = _MARKS.find(self._text, self._at, self._final)
        if begin > self._at:
            return self._say(begin)
        if not mark:
            return False
        self._mode = self._begin
        return mark not in _ENDS or self._end(end - self._at)

    def _say(self, end: int) -> bool:
        if self._kind is not ContentKind.TOOL_CALL:
            return self._put(self._kind, end - self._at)
        self._said = True
        if not self._whole:
            _, self._whole = self._json.scan(self._text[self._at : end], 0, False)
            self.called = self.called or self._whole
        return self._argue(end - self._at)

    def _end(self, length: int) -> bool:
        if self._kind is not ContentKind.TOOL_CALL:
            return self._put(self._kind, length, "")
        self.called = True
        return self._argue(length, "" if self._said else "{}")
