"""GGUF files for tests: a real one with other metadata."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from services.model_files.gguf import _Reader

Value = str | bool | int | float | list[str] | list[float] | list[int]


def rewrite(source: Path, target: Path, changes: Mapping[str, Value | None]) -> Path:
    """A copy of a GGUF file with some metadata changed, added or (None) left out; the tensors stay."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(source, data, 0)
        reader.at = 4
        version, tensors, pairs = reader._scalar("I"), reader._scalar("Q"), reader._scalar("Q")
        kept: dict[str, bytes] = {}
        for _ in range(pairs):
            start = reader.at
            key = reader._string()
            reader._value(reader._scalar("I"))
            kept[key] = data[start : reader.at]
        start = reader.at
        reader._tensors(tensors)
        table, weights = data[start : reader.at], data[-(-reader.at // 32) * 32 :]
    for key, value in changes.items():
        kept.pop(key, None)
        if value is not None:
            kept[key] = _string(key) + _typed(value)
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(kept)) + b"".join(kept.values()) + table
    target.write_bytes(head + bytes(-len(head) % 32) + weights)
    return target


def _string(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _typed(value: Value) -> bytes:
    if isinstance(value, list):
        kind, items = {str: (8, _string), float: (6, _float), int: (5, _int)}[type(value[0])]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items(item) for item in value)  # type: ignore[operator]
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def _float(value: float) -> bytes:
    return struct.pack("<f", value)


def _int(value: int) -> bytes:
    return struct.pack("<i", value)
