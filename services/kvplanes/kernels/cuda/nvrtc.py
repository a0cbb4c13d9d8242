"""Compile CUDA C++ with NVRTC, which PyTorch's CUDA wheels bring along, and launch it through the driver."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

from .program import HANDOVER_SOURCE, HANDOVER_THREADS, SOURCE, Variant

EARLY_CAPABILITY = 90  # of the first GPUs that know programmatic dependent launches


class CudaError(RuntimeError):
    """NVRTC or the driver refused something. The text names the call and what it said."""


def _checked(name: str, result: tuple[Any, ...]) -> Any:
    """What a call of ``cuda.bindings`` returned beside its status. Raises CudaError for any status but success."""
    status, *values = result
    if int(status) != 0:
        raise CudaError(f"{name}: {status.name}")
    return values[0] if len(values) == 1 else values


def compile_cubin(source: Path, macros: list[str], capability: int) -> bytes:
    """Machine code of `source` for GPUs of `capability` (90: Hopper). Needs no GPU.

    Raises CudaError with the compiler's log where it does not compile, ImportError without cuda-bindings.
    """
    from cuda.bindings import nvrtc  # noqa: PLC0415 - absent where there is no CUDA build of PyTorch

    text, name = source.read_bytes(), source.name.encode()
    program = _checked("nvrtcCreateProgram", nvrtc.nvrtcCreateProgram(text, name, 0, [], []))
    options = [f"--gpu-architecture=sm_{capability}", "--std=c++17", *macros]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if int(status) != 0:
        log = bytearray(_checked("nvrtcGetProgramLogSize", nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise CudaError(f"{source.name} for sm_{capability}: {log.decode(errors='replace')}")
    cubin = bytearray(_checked("nvrtcGetCUBINSize", nvrtc.nvrtcGetCUBINSize(program)))
    _checked("nvrtcGetCUBIN", nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(cubin)


class CudaKernel:
    """One kernel of one source, loaded into the current device's context, which must exist."""

    def __init__(self, cubin: bytes, name: str, threads: int, shared_bytes: int = 0, *, early: bool = False) -> None:
        """Load `cubin`. With `early`, a launch need not wait for the last kernel. Raises CudaError or ImportError."""
        from cuda.bindings import driver  # noqa: PLC0415 - absent where there is no CUDA build of PyTorch

        self.driver, self.threads, self.shared_bytes = driver, threads, shared_bytes
        self.module = _checked("cuModuleLoadData", driver.cuModuleLoadData(cubin))
        self.function = _checked("cuModuleGetFunction", driver.cuModuleGetFunction(self.module, name.encode()))
        if shared_bytes:
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked("cuFuncSetAttribute", driver.cuFuncSetAttribute(self.function, limit, shared_bytes))
        self.attributes = [self._early()] if early else []

    def _early(self) -> Any:
        """The launch attribute that lets the kernel begin before the last one has ended; it waits where it must."""
        attribute = self.driver.CUlaunchAttribute()
        attribute.id = self.driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        return attribute

    def launch(self, arguments: ctypes.Structure, programs: int, stream: int) -> None:
        """Run `programs` on the CUDA `stream`. Raises CudaError."""
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        address = ctypes.addressof(parameters)
        if not self.attributes:
            grid = (programs, 1, 1, self.threads, 1, 1)
            launched = self.driver.cuLaunchKernel(self.function, *grid, self.shared_bytes, stream, address, 0)
            _checked("cuLaunchKernel", launched)
            return
        config = self.driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = programs, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = self.threads, 1, 1
        config.sharedMemBytes, config.hStream = self.shared_bytes, stream
        config.attrs, config.numAttrs = self.attributes, len(self.attributes)
        _checked("cuLaunchKernelEx", self.driver.cuLaunchKernelEx(config, self.function, address, 0))


@functools.lru_cache(maxsize=16)
def load(variant: Variant, capability: int, *, early: bool = True) -> CudaKernel:
    """The decode step of `variant`, compiled and loaded once a process. Raises CudaError or ImportError."""
    cubin = compile_cubin(SOURCE, variant.macros(), capability)
    early = early and capability >= EARLY_CAPABILITY
    return CudaKernel(cubin, "planes_decode", variant.warps * 32, variant.shared_bytes, early=early)


@functools.lru_cache(maxsize=1)
def load_handover(capability: int) -> CudaKernel:
    """The handover of low planes, compiled and loaded once a process. Raises CudaError or ImportError."""
    return CudaKernel(compile_cubin(HANDOVER_SOURCE, [], capability), "planes_pass_low", HANDOVER_THREADS)
