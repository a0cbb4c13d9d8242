"""Figures as people read them."""

from __future__ import annotations

_STEPS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def bytes_in_words(size: float, *, precise: bool = False) -> str:
    """Bytes in decimal units, as cards are sold: `52.3 GB`, `410 MB`; `precise` adds one digit."""
    for unit, step in _STEPS:
        if abs(size) >= step:
            value = size / step
            digits = 1 if unit in ("TB", "GB") and (precise or abs(value) < 100) else 0
            return f"{value:.{digits + precise}f} {unit}"
    return f"{size:.0f} B"
