"""How fast this machine moves memory, for models that run without a GPU: `memset`-ed buffers, copied and read.

Decoding reads weights and KV, so what matters is reading; a copy moves as much on machines that write past their
caches. Both are measured with all cores at once, by functions of the C library that run without Python's lock. The best
of many short tries counts, as in STREAM: other programs can only slow a try, and a short one often escapes them. Each
try takes another part of the buffers, so that no cache holds it. A triad would need compiled code or numpy, which the
host does without.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from services.contracts.devices import DeviceBandwidth
from services.devices.machine import cores, machine

THREADS_MAX = 32  # fewer cores than a large server has saturate its memory
BUFFER_BYTES = 256 << 20  # of all threads together, well above what caches hold
THREAD_BYTES_MIN = 32 << 20  # of each
TRY_BYTES = 4 << 20  # that a thread reads in one try
MEASURE_S = 0.2

log = structlog.get_logger()
_c = ctypes.CDLL(None)
_c.memchr.restype = ctypes.c_void_p
_c.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_c.memcpy.restype = ctypes.c_void_p
_c.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def measure_memory() -> DeviceBandwidth:
    """Bytes a second that all cores read, or read and write, whichever is more. Takes about 0.3 s."""
    threads = min(cores(), THREADS_MAX)
    parts = max(BUFFER_BYTES // threads, THREAD_BYTES_MIN) // TRY_BYTES
    buffers = [mmap.mmap(-1, parts * TRY_BYTES) for _ in range(threads)]
    places = [ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in buffers]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda place: ctypes.memset(place, 1, parts * TRY_BYTES), places))
        best = max(threads * TRY_BYTES / _least_s(pool, work, places, parts) for work in (_read, _copy))
    measured = DeviceBandwidth(machine(), best)
    log.info("bandwidth.measured", device=measured.name, bytes_per_s=round(measured.bytes_per_s))
    return measured


def _read(place: int) -> None:
    _c.memchr(place, 0, TRY_BYTES)  # the buffer holds no zero, so all of it is read


def _copy(place: int) -> None:
    _c.memcpy(place + TRY_BYTES // 2, place, TRY_BYTES // 2)


def _least_s(pool: ThreadPoolExecutor, work: Callable[[int], None], places: Sequence[int], parts: int) -> float:
    """Of the best try, one part on every thread."""
    least_s = math.inf
    until_s = time.perf_counter() + MEASURE_S / 2
    for part in itertools.cycle(range(parts)):
        begin_s = time.perf_counter()
        list(pool.map(work, [place + part * TRY_BYTES for place in places]))
        least_s = min(least_s, time.perf_counter() - begin_s)
        if time.perf_counter() > until_s:
            break
    return least_s
