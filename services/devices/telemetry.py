"""What NVML says about the GPU: memory by process, use, clocks, and DRAM bandwidth where the GPU counts it.

A machine without NVML gets a source that says so; it never answers with zeros. `import pynvml` comes from the
nvidia-ml-py distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil
import pynvml

_DDR = 2  # transfers a clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One look at one GPU. Bytes; `*_use` from 0 to 1. None: this GPU or driver does not say."""

    name: str
    total_bytes: int
    used_bytes: int
    process_bytes: Mapping[int, int] = field(default_factory=dict)  # process id -> bytes
    compute_use: float | None = None  # part of the last interval in which a kernel ran
    memory_clock_hz: float | None = None
    bandwidth_bytes_per_s_max: float | None = None  # clock x bus width: a datasheet figure, not a measured one
    dram_use: float | None = None  # of that bandwidth, since the last reading (GPM: Hopper and later)
    capability: tuple[int, int] | None = None  # compute capability

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    @property
    def dram_bytes_per_s(self) -> float | None:
        """What went over the memory bus since the last reading."""
        if self.dram_use is None or self.bandwidth_bytes_per_s_max is None:
            return None
        return self.dram_use * self.bandwidth_bytes_per_s_max


class GpuSource:
    """NVML's view of one GPU, by index. `available` False: no reading is to be had, and `why` says why."""

    def __init__(self, index: int = 0) -> None:
        self.available = False
        self.why = ""
        self._sample: Any = None  # the last GPM sample: DRAM use is the difference of two
        try:
            pynvml.nvmlInit()
            self._gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            self.why = f"NVML: {error}"
            return
        self._counts_dram = bool(_maybe(lambda: pynvml.nvmlGpmQueryDeviceSupport(self._gpu).isSupportedDevice))
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
        clock = _maybe(lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM) * 1e6)
        top = _maybe(lambda: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM) * 1e6)
        bits = _maybe(lambda: int(pynvml.nvmlDeviceGetMemoryBusWidth(gpu)))
        return GpuReading(
            name=name.decode() if isinstance(name, bytes) else str(name),
            total_bytes=int(memory.total),
            used_bytes=int(memory.used),
            process_bytes={int(p.pid): int(p.usedGpuMemory) for p in processes if p.usedGpuMemory is not None},
            compute_use=_maybe(lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
            memory_clock_hz=clock,
            bandwidth_bytes_per_s_max=top * _DDR * bits / 8 if top and bits else None,
            dram_use=_maybe(self._dram_use) if self._counts_dram else None,
            capability=_maybe(lambda: tuple(pynvml.nvmlDeviceGetCudaComputeCapability(gpu))),
        )

    def _dram_use(self) -> float | None:
        """None at the first reading. Raises NVMLError."""
        before, self._sample = self._sample, pynvml.nvmlGpmSampleGet(self._gpu, pynvml.nvmlGpmSampleAlloc())
        if before is None:
            return None
        try:
            wanted = pynvml.c_nvmlGpmMetricsGet_t()
            wanted.version = pynvml.NVML_GPM_METRICS_GET_VERSION
            wanted.numMetrics = 1
            wanted.sample1, wanted.sample2 = before, self._sample
            wanted.metrics[0].metricId = pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL
            pynvml.nvmlGpmMetricsGet(wanted)
            value = float(wanted.metrics[0].value) / 100
        finally:
            pynvml.nvmlGpmSampleFree(before)
        return value if 0 <= value <= 1 else None  # NaN where no time passed between the two


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
