"""Replies as blocks."""

from __future__ import annotations

import orjson

from gateway.api.blocks import blocks_of
from services.contracts.replies import ContentKind, ReplyEntry


def test_separators_of_lines_inside_arguments_part_nothing() -> None:
    """JSON leaves U+2028 and U+0085 as they are, and Python counts both as ends of lines."""
    parts = [{"index": 0, "id": "c", "name": "f", "arguments": '{"x": "a\u2028b'}, {"index": 0, "arguments": '\x85c"}'}]
    text = "".join(orjson.dumps(part).decode() + "\n" for part in parts)
    [block] = blocks_of([ReplyEntry("1-1", "text", text, 2, content=ContentKind.TOOL_CALL)])
    assert block.text == '{"x": "a\u2028b\x85c"}'
