"""The MPS daemon of a GPU: a child of the host, so that its engines run side by side instead of in turns."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from services.config.schema import Config
from services.contracts.devices import MpsState, gpu_index
from services.devices.card import devices
from services.devices.mps import (
    CONTROL,
    LOG_VARIABLE,
    PIPE_VARIABLE,
    MpsControl,
    MpsSilent,
    driver_version,
    leftovers,
    why_not,
)
from services.process import children as process

STOP_S_MAX = 5.0
START_S_MAX = 10.0
POLL_S = 0.05
FOLDER_BYTES_MAX = 70  # sockets in it have names of up to 30 bytes, and their paths 107 at most


class MpsDaemon:
    """`nvidia-cuda-mps-control -f` on folders of its own. What an earlier run left on them is ended first."""

    def __init__(self, device: str, folder: Path, log_path: Path, env: Mapping[str, str]) -> None:
        self.name = f"mps {device}"
        self.log_path = log_path
        self.process: asyncio.subprocess.Process | None = None
        self.pipe = folder / "pipe"
        self._folders = (self.pipe, folder / "log")
        self.environment = {PIPE_VARIABLE: str(self.pipe), LOG_VARIABLE: str(folder / "log")}
        self._env = {**env, **self.environment, "CUDA_VISIBLE_DEVICES": str(gpu_index(device))}
        self._control = MpsControl(self.pipe)

    async def start(self) -> None:
        """Raises OSError."""
        await asyncio.to_thread(self._clear)
        self.process = await process.spawn([CONTROL, "-f"], self._env, self.log_path)

    def _clear(self) -> None:
        _end(leftovers(self.pipe))
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)

    async def trouble(self) -> str:
        """Wait until it answers: "" then. Else in one line what is wrong: it ended, or said nothing for ten seconds."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + START_S_MAX
        while not await self._control.answers():
            if self.process is not None and self.process.returncode is not None:
                return f"{CONTROL} ended: {process.tail(self.log_path, 1).strip() or 'it did not say why'}"
            if loop.time() > until_s:
                return f"{CONTROL} does not answer; see {self.log_path}"
            await asyncio.sleep(POLL_S)
        return ""

    async def stop(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(MpsSilent):
            await self._control.quit()
        await process.stop(self.process, STOP_S_MAX)
        await asyncio.to_thread(lambda: _end(leftovers(self.pipe)))


def daemon_of(config: Config, device: str, logs_dir: Path, env: Mapping[str, str]) -> tuple[MpsDaemon, MpsState]:
    """The daemon to start for a device, and what is known of it: not to be started where the state says why."""
    daemon = MpsDaemon(device, folder_of(config, device), logs_dir / f"mps-{device}.log", env)
    kernel = Path("/proc/version")
    reason = why_not(gpu_index(device) or 0, daemon.pipe, kernel.read_text() if kernel.exists() else "")
    return daemon, MpsState(str(daemon.pipe), driver_version(), reason or "")


def folder_of(config: Config, device: str) -> Path:
    """In the data folder, or in the temporary one where that path is too long for sockets."""
    path = config.data_dir.absolute() / "mps" / device
    if len(os.fsencode(path)) <= FOLDER_BYTES_MAX:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"bh-mps-{os.getuid()}-{short}"


def shared_devices(config: Config) -> list[str]:
    """GPUs whose engines are to run side by side, if that is possible."""
    wanted = config.memory.sharing != "turns"
    return [device for device in devices(config) if gpu_index(device) is not None] if wanted else []


async def daemon_trouble(config: Config, states: Mapping[str, MpsState]) -> str | None:
    """What is wrong with the daemons that the configuration asks for; a device that takes turns has a reason, and that
    is well."""
    for device in shared_devices(config):
        if device not in states:
            return f"the daemon of {device} has not started yet"
        state = states[device]
        if not state.why_not and not await MpsControl(Path(state.pipe)).answers():
            return f"the daemon of {device} does not answer"
    return None


def _end(processes: list[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(processes, timeout=STOP_S_MAX)
