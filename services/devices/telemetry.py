"""What NVML says about the GPU: its memory, by process, and its compute capability.

A machine without NVML gets a source that says so; it never answers with zeros. `import pynvml` comes from the
nvidia-ml-py distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import psutil
import pynvml

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One look at one GPU. Bytes."""

    name: str
    total_bytes: int
    used_bytes: int
    process_bytes: Mapping[int, int] = field(default_factory=dict)  # process id -> bytes
    capability: tuple[int, int] | None = None  # compute capability; None: the driver does not say

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes


class GpuSource:
    """NVML's view of one GPU, by index. Without readings `available` is False and `why` gives the reason."""

    def __init__(self, index: int = 0) -> None:
        self.available = False
        self.why = ""
        try:
            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            self.why = f"NVML: {error}"
            return
        self.available = True

    def read(self) -> GpuReading | None:
        """None when not `available`, or when the driver has gone away since; `why` then has the reason."""
        if not self.available:
            return None
        gpu = self._gpu
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            name = pynvml.nvmlDeviceGetName(gpu)
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
        except pynvml.NVMLError as error:
            self.available, self.why = False, f"NVML: {error}"
            return None
        return GpuReading(
            name=name.decode() if isinstance(name, bytes) else str(name),
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            process_bytes={int(p.pid): int(p.usedGpuMemory) for p in processes if p.usedGpuMemory is not None},
            capability=_maybe(lambda: tuple(pynvml.nvmlDeviceGetCudaComputeCapability(gpu))),
        )


def process_tree_bytes(reading: GpuReading, root: int) -> int | None:
    """GPU bytes that a process and everything below it hold. None where NVML names no process of it.

    Inside a container NVML may name processes by ids of the host, or none at all; that is not zero bytes.
    """
    try:
        tree = [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return None
    found = [reading.process_bytes[pid] for pid in tree if pid in reading.process_bytes]
    return sum(found) if found else None


def _maybe(ask: Callable[[], T]) -> T | None:
    """What a GPU or a driver may not support."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None
