"""Run ``decode.cu`` and ``handover.cu`` on a CPU, built with the system's C++ compiler."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from services.kvplanes.kernels.cuda.program import HANDOVER_THREADS, SOURCE, Variant

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")


class EmulatedKernel:
    """What ``nvrtc.CudaKernel`` is on a GPU."""

    def __init__(self, macros: list[str]) -> None:
        """Build it; raises CalledProcessError where it does not compile."""
        self.folder = tempfile.TemporaryDirectory()
        library = Path(self.folder.name) / "decode.so"
        flags = ["-O1", "-std=c++17", "-fno-strict-aliasing", "-w", "-shared", "-fPIC", f"-I{SOURCE.parent}"]
        command = [str(COMPILER), *flags, *macros, str(HERE / "cuda_on_cpu.cpp"), "-o", str(library)]
        subprocess.run(command, check=True)
        self.library = ctypes.CDLL(str(library))

    def launch(self, arguments: ctypes.Structure, programs: int, _stream: int) -> None:
        """Run `programs`, one after another."""
        self.library.run(ctypes.byref(arguments), programs)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a program, as the source counts it."""
        return int(self.library.shared_bytes())


@functools.lru_cache(maxsize=16)
def emulated(variant: Variant) -> EmulatedKernel:
    """The decode step, built once."""
    return EmulatedKernel(variant.macros())


@functools.lru_cache(maxsize=1)
def emulated_handover() -> EmulatedKernel:
    """The handover, built once."""
    return EmulatedKernel(["-DHANDOVER", f"-DWARPS={HANDOVER_THREADS // 32}"])
