"""What Bunkhouse says about a chat in its `x-bunkhouse-*` headers. Other servers send none."""

from __future__ import annotations

from collections.abc import Mapping

from .record import ChatRecord


def read_headers(record: ChatRecord, headers: Mapping[str, str]) -> None:
    """Fill in what the record does not know yet: the end of a stream is surer than its headers."""
    record.overhead_ms = _number(headers, "overhead-ms")
    record.served_by = record.served_by or headers.get("x-bunkhouse-served-by")
    if record.queue_s is None and (queue_ms := _number(headers, "queue-ms")) is not None:
        record.queue_s = queue_ms / 1000
    if record.kv_bits is None and (bits := _number(headers, "kv-bits")) is not None:
        record.kv_bits = int(bits)
    if (size := _number(headers, "kv-bytes")) is not None:
        record.kv_bytes = int(size)


def _number(headers: Mapping[str, str], name: str) -> float | None:
    try:
        return float(headers[f"x-bunkhouse-{name}"])
    except (KeyError, ValueError):
        return None
