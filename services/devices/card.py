"""How much memory the models of a host share: a GPU's, or a part of the machine's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
import pynvml

from services.config.schema import Config, ConfigError, ModelConfig

HOST_PART = 0.5  # of the machine's memory; the rest is the system's and the host's own processes'
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class DeviceKind(StrEnum):
    """Where a model's weights and KV memory lie."""

    GPU = "gpu"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Card:
    """Memory in bytes, and where that number comes from."""

    place: DeviceKind
    name: str
    total_bytes: int


def place_of(model: ModelConfig) -> DeviceKind:
    """The memory that the model's engine takes on the device that it is configured for."""
    return DeviceKind.GPU if model.kind.uses_gpu(model.device) else DeviceKind.HOST


def cards(config: Config) -> dict[DeviceKind, Card]:
    """The cards that the configuration's models use. Raises ConfigError where one is not there.

    `memory.card` sets the size of the GPU's memory, or of the machine's where no model uses a GPU.
    """
    places = {place_of(model) for model in config.models.values()}
    named = DeviceKind.GPU if DeviceKind.GPU in places else DeviceKind.HOST
    found: dict[DeviceKind, Card] = {}
    for place in sorted(places):
        if place is named and config.memory.card != "auto":
            found[place] = Card(place, "memory.card", config.memory.card)
        else:
            found[place] = _gpu() if place is DeviceKind.GPU else _host()
    return found


def _gpu() -> Card:
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            return Card(DeviceKind.GPU, pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise ConfigError(
            f"memory.card is `auto`, but this machine has no GPU that NVML knows ({error}). Set memory.card to plan "
            "for one (for example 24GB), or `device: cpu` on the models."
        ) from error


def _host() -> Card:
    total = int(min([psutil.virtual_memory().total, *_container_limits()]) * HOST_PART)
    return Card(DeviceKind.HOST, f"{HOST_PART:.0%} of this machine's memory", total)


def _container_limits() -> list[int]:
    texts = [Path(name).read_text().strip() for name in _CGROUP_LIMITS if Path(name).exists()]
    return [int(text) for text in texts if text.isdigit()]
