"""Server-sent events out of arbitrary pieces of bytes (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from typing import NamedTuple


class SseEvent(NamedTuple):
    """One event. `id` is None where the event itself carried none."""

    data: bytes
    id: str | None = None
    name: str | None = None


class SseParser:
    """Takes bytes as they come and gives whole events. Comments are passed over."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[SseEvent]:
        """The events that `piece` completes."""
        return [event for block in self._blocks(piece) if (event := _parse(block)) is not None]

    def feed_data(self, piece: bytes) -> list[bytes]:
        """Only their data: the fast way for engines, whose events are one line."""
        data = []
        for block in self._blocks(piece):
            if block.startswith(b"data: ") and b"\n" not in block:
                data.append(block[6:])
            elif (event := _parse(block)) is not None:
                data.append(event.data)
        return data

    def _blocks(self, piece: bytes) -> list[bytes]:
        buffer = self._rest + piece if self._rest else piece
        held = b""
        if b"\r" in buffer:
            if buffer.endswith(b"\r"):  # the other half of a CR LF may be on its way
                buffer, held = buffer[:-1], b"\r"
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = buffer.split(b"\n\n")
        self._rest = rest + held
        return blocks

    @property
    def unfinished(self) -> bytes:
        """What came after the last whole event."""
        return self._rest.strip()

    @property
    def unfinished_bytes(self) -> int:
        """The length of what came after the last whole event."""
        return len(self._rest)


def _parse(block: bytes) -> SseEvent | None:
    data: list[bytes] = []
    identity = name = None
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"id":
            identity = value.decode(errors="replace")
        elif field == b"event":
            name = value.decode(errors="replace")
    return SseEvent(b"\n".join(data), identity, name) if data else None
