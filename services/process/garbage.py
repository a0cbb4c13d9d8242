"""What a process does with its heap once it has started."""

from __future__ import annotations

import contextlib
import ctypes
import gc

YOUNG_OBJECTS_MAX = 10_000  # before they are looked through for garbage; Python's own 700 is a few requests' worth


def settle() -> None:
    """Call once, when all that lives as long as the process has been made.

    Garbage collections leave those objects out from here on: one over all of a gateway's takes a tenth of a second, in
    which no token moves. And what start-up freed goes back to the system.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX)
    with contextlib.suppress(OSError, AttributeError):  # only glibc keeps it, and only glibc has this
        ctypes.CDLL(None).malloc_trim(0)
