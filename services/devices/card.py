"""The devices that a host's models run on, and how much memory each has: a GPU's own, or a part of the machine's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

from services.config.schema import Config, ConfigError, ModelConfig
from services.contracts.devices import CPU, gpu, gpu_index

FIRST_GPU = 0
HOST_PART = 0.5  # of the machine's memory; the rest is the system's and the host's own processes'
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Card:
    """A device's memory in bytes, and where that number comes from."""

    device: str  # its id, as in EngineFacts
    name: str
    total_bytes: int


def device_of(model: ModelConfig) -> str:
    """The id of the device that the model's engine runs on: of GPUs, the first."""
    return gpu(FIRST_GPU) if model.kind.uses_gpu(model.device) else CPU


def cards(config: Config) -> dict[str, Card]:
    """The devices that the configuration's models use, by id. Raises ConfigError where one is not there.

    `memory.card` sets the size of each GPU's memory, or of the machine's where no model uses a GPU.
    """
    return {device: card(config, device) for device in devices(config)}


def card(config: Config, device: str, used: Sequence[str] | None = None) -> Card:
    """One of them. `used`: see `bandwidths`. Raises ConfigError where it is not there."""
    if config.memory.card != "auto" and device in _described(config, used):
        return Card(device, "memory.card", config.memory.card)
    index = gpu_index(device)
    return _host() if index is None else _gpu(index)


def bandwidths(config: Config, measured: Mapping[str, float], used: Sequence[str] | None = None) -> dict[str, float]:
    """Bytes a second by device id: as configured, for each GPU or for the machine where no model uses one, else as
    measured. `used`: the ids of the devices in use, where engines report them; else the configuration says which."""
    configured = config.memory.bandwidth_bytes_per_s
    return {**measured, **(dict.fromkeys(_described(config, used), configured) if configured else {})}


def devices(config: Config, reported: Mapping[str, str] | None = None) -> list[str]:
    """Ids of the devices that the configuration's models use, GPUs first. `reported`: the device of each engine that
    runs, by model; it outranks the configuration."""
    used = {(reported or {}).get(name) or device_of(model) for name, model in config.models.items()}
    return sorted(used, key=lambda device: (device == CPU, device))


def _described(config: Config, used: Sequence[str] | None) -> list[str]:
    """The devices that `memory` in the configuration is about."""
    used = devices(config) if used is None else used
    return [device for device in used if device != CPU] or list(used)


@contextmanager
def nvml() -> Iterator[None]:
    """NVML, for some questions. Raises pynvml.NVMLError."""
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Card:
    try:
        with nvml():
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            return Card(gpu(index), pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError as error:
        raise ConfigError(
            f"memory.card is `auto`, but this machine has no GPU that NVML knows ({error}). Set memory.card to plan "
            "for one (for example 24GB), or `device: cpu` on the models."
        ) from error


def _host() -> Card:
    total = int(min([psutil.virtual_memory().total, *_container_limits()]) * HOST_PART)
    return Card(CPU, f"{HOST_PART:.0%} of this machine's memory", total)


def _container_limits() -> list[int]:
    texts = [Path(name).read_text().strip() for name in _CGROUP_LIMITS if Path(name).exists()]
    return [int(text) for text in texts if text.isdigit()]
