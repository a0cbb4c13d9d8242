"""CUDA MPS as its clients see it: who has joined the daemon, and why a machine cannot have one.

NVIDIA's driver brings `nvidia-cuda-mps-control`, which is daemon and command line in one. The daemon starts a server
process for the user at the first client; clients find it through the sockets in the pipe folder. What is read here is
the daemon's word, so that nothing depends on what was configured.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

from services.devices.card import nvml
from services.process.children import mortal

CONTROL = "nvidia-cuda-mps-control"
SERVER = "nvidia-cuda-mps-server"
PIPE_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
LOG_VARIABLE = "CUDA_MPS_LOG_DIRECTORY"
SOCKET = "control"  # in the pipe folder, as long as there is a daemon
CUDA_PIPE = Path("/tmp/nvidia-mps")  # noqa: S108  (where CUDA looks when nothing is set)
ANSWER_S_MAX = 5.0
_NAME_CHARS = 15  # of a process, that the kernel keeps


class MpsSilent(Exception):
    """The daemon does not answer. The message says how."""


@dataclass(frozen=True, slots=True)
class MpsControl:
    """The daemon behind one pipe folder."""

    pipe: Path

    async def servers(self) -> Mapping[int, frozenset[int]]:
        """Process ids of the clients, by that of their server. Raises MpsSilent."""
        servers = await self._numbers("get_server_list")
        return {server: frozenset(await self._numbers(f"get_client_list {server}")) for server in servers}

    async def answers(self) -> bool:
        """Whether there is a daemon."""
        try:
            await self._ask("get_server_list")
        except MpsSilent:
            return False
        return True

    async def quit(self) -> None:
        """Ask it to end, with its server. Raises MpsSilent."""
        await self._ask("quit")

    async def _numbers(self, command: str) -> list[int]:
        """What the answer lists; a server that has just ended makes it a sentence, which lists nothing."""
        lines = await self._ask(command)
        return [int(line) for line in lines if line.isdecimal()]

    async def _ask(self, command: str) -> list[str]:
        """The answer's lines, stripped."""
        if not (self.pipe / SOCKET).exists():
            raise MpsSilent(f"there is no daemon at {self.pipe}")
        process = await asyncio.create_subprocess_exec(
            *mortal([CONTROL]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, PIPE_VARIABLE: str(self.pipe)},
        )
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                out, _ = await process.communicate(f"{command}\n".encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise MpsSilent(f"it did not answer within {ANSWER_S_MAX:.0f} s") from None
        lines = [line.strip() for line in out.decode(errors="replace").splitlines()]
        if process.returncode:
            raise MpsSilent(" ".join(lines)[-200:] or f"exit status {process.returncode}")
        return lines


def pipe_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where CUDA programs of this environment look for the daemon."""
    return Path(environ.get(PIPE_VARIABLE) or CUDA_PIPE)


def driver_version() -> str:
    """The driver's, which MPS is a part of; empty without NVML."""
    try:
        with nvml():
            return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def why_not(index: int, pipe: Path, kernel: str = "") -> str | None:
    """In one line, why the GPU at `index` cannot be shared in space by a daemon at `pipe`; None: nothing speaks against
    it. `kernel`: what /proc/version says."""
    if shutil.which(CONTROL) is None:
        return f"{CONTROL} is not installed (it comes with NVIDIA's driver)"
    if "microsoft" in kernel.lower():
        return "MPS does not run under WSL"
    if _partitioned(index):
        return f"GPU {index} is in MIG mode"
    return _foreign_daemon(pipe)


def _partitioned(index: int) -> bool:
    """Whether the GPU is in MIG mode. False where NVML does not say."""
    try:
        with nvml():
            mode, _ = pynvml.nvmlDeviceGetMigMode(pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError:
        return False
    return bool(mode == pynvml.NVML_DEVICE_MIG_ENABLE)


def _foreign_daemon(pipe: Path) -> str | None:
    for process in _running(CONTROL):
        uid = process.uids().real
        if uid != os.getuid():
            return f"another user's MPS daemon runs (user {uid}, process {process.pid})"
        if _pipe_of(process) != str(pipe):
            return f"another MPS daemon of this user runs (process {process.pid}); end it, or set memory.sharing: turns"
    return None


def leftovers(pipe: Path) -> list[psutil.Process]:
    """Daemons and servers of an earlier run on this pipe folder."""
    return [each for name in (CONTROL, SERVER) for each in _running(name) if _pipe_of(each) == str(pipe)]


def _running(name: str) -> list[psutil.Process]:
    """Daemons or servers, not the command line that asks one: that has a terminal or a pipe and ends at once."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name()[:_NAME_CHARS] != name[:_NAME_CHARS]:
                continue
            line = process.cmdline()
            at = next((at for at, word in enumerate(line) if Path(word).name == name), None)
            if at is not None and (name == SERVER or {"-d", "-f"} & set(line[at + 1 :])):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _pipe_of(process: psutil.Process) -> str | None:
    """The pipe folder in its environment; None where that cannot be read, or names none."""
    try:
        return process.environ().get(PIPE_VARIABLE)
    except psutil.Error:
        return None
