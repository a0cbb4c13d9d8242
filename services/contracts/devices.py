"""Devices: what engines run on, each known by its id. Memory is bytes, times are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CPU = "cpu"  # the machine's own memory
_GPU = "gpu"


class Sharing(StrEnum):
    """How the processes of a device get their parts of it."""

    TURNS = "turns"  # one runs at a time
    SPACE = "space"  # side by side, under CUDA MPS


def gpu(index: int) -> str:
    """The id of the GPU that NVML and CUDA list at `index`."""
    return f"{_GPU}{index}"


def gpu_index(device: str) -> int | None:
    """The index of a GPU, or None for a device that is not one."""
    number = device.removeprefix(_GPU)
    return int(number) if number != device and number.isdecimal() else None


@dataclass(frozen=True, slots=True)
class DeviceBandwidth:
    """What a device was measured to move within its memory: of a GPU copies, reads and writes together."""

    name: str  # the GPU's, or the machine's processor and cores
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class MpsState:
    """The MPS daemon of a GPU, as the host knows it. `why_not`: in one line, why engines take turns; "": they need
    not."""

    pipe: str = ""  # its folder
    version: str = ""  # the driver's
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What NVML says of one device's memory."""

    device: str
    at_s: float
    total_bytes: int
    used_bytes: int  # by every process on it
