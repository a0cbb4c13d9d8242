"""Garbage collection of a process that has started."""

from __future__ import annotations

import contextlib
import ctypes
import gc

YOUNG_OBJECTS_MAX = 10_000  # between two collections; Python's own 700 come with a few requests


def freeze_heap() -> None:
    """Call once, when every object that lives as long as the process exists.

    Garbage collections leave those objects out from here on: one over all of a gateway's objects takes a tenth of a
    second, in which no token moves. Memory that start-up freed goes back to the system.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX)
    with contextlib.suppress(OSError, AttributeError):  # only glibc keeps it, and only glibc has this
        ctypes.CDLL(None).malloc_trim(0)
