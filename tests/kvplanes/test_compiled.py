"""What Triton's compiler makes of the kernels, without a GPU: its interpreter takes what the compiler refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="kvplanes' kernels run in SGLang's environment")

KERNELS = (
    "plan_kernel",
    "store_kernel",
    "decode_kernel",
    "combine_kernel",
    "extend_kernel",
    "gather_kernel",
    "pass_low_kernel",
)
SCRIPT = """
import json, torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from services.kvplanes.kernels.handover import pass_low_kernel
from services.kvplanes.kernels.store import store_kernel

backend = make_backend(GPUTarget("cuda", 90, 32))

def key(kernel, *arguments, **constants):
    return create_function_from_signature(kernel.signature, kernel.params, backend)(*arguments, **constants)[1]

table, half, full = torch.zeros(64, dtype=torch.int32), torch.zeros(64).half(), torch.zeros(64)
slots = torch.zeros(64, dtype=torch.int64)
constants = {"QUERY_HEADS": 28, "HEADS": 4, "QUARTER": 32, "BLOCK": 16, "KEEP": False, "SAVE": True}
handover = [key(pass_low_kernel, table, table, at, at, at, table, 8196, 4, 32) for at in (slots, slots[1:])]
stored = [
    key(store_kernel, *[half] * 6, full, at, table, table, half, tokens, *[128] * 5, **constants)
    for at in (slots, slots[1:])
    for tokens in (1, 7, 64)
]
print(json.dumps([handover, stored]))
"""


def said(*arguments: str) -> Any:
    """The last line, JSON, of Python run with `arguments` where kernels are compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    run = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_neither_the_place_of_slots_nor_the_length_of_a_prompt_needs_another_kernel() -> None:
    for keys in said("-c", SCRIPT):
        assert all(key == keys[0] for key in keys)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("capability", ["80", "86", "89", "90"])  # Ampere, Ada, Hopper: other matrix instructions
def test_every_kernel_becomes_machine_code(capability: str) -> None:
    registers = said("-m", "tests.kvplanes.compiling", capability)[capability]
    assert {name.split()[0] for name in registers} == set(KERNELS)
    assert all(0 < count <= 255 for count in registers.values())
    decode = {name.split()[1]: count for name, count in registers.items() if name.startswith("decode")}
    assert decode["128"] <= 128, "with more, no four programs fit a multiprocessor"


SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227}  # of a multiprocessor, for programs


@pytest.mark.parametrize("capability", list(SHARED_KIB))
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_the_decode_step_fits_its_gpu(dim: int, capability: int, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC comes with PyTorch's CUDA build")
    import triton.backends.nvidia

    from services.kvplanes.kernels.cuda.nvrtc import compile_cubin
    from services.kvplanes.kernels.cuda.program import HANDOVER_SOURCE, SOURCE, Variant, cuda_tuning_for

    tuning = cuda_tuning_for(dim, capability)
    variant = Variant(dim, 7, capability == 90, tuning.warps, tuning.stages, tuning.places, tuning.apart)
    cubin = tmp_path / "decode.cubin"
    cubin.write_bytes(compile_cubin(SOURCE, variant.macros(), capability))
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    found = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(found.partition(f"{name}:")[2].split()[0]) for name in ("REG", "STACK"))
    assert stack <= 16, "registers went to local memory"
    assert registers * 32 * tuning.warps * tuning.places <= 65536
    assert (variant.shared_bytes + 1024) * tuning.places <= (
        SHARED_KIB[capability] + 1
    ) * 1024  # 1 KiB each is the system's
    assert compile_cubin(HANDOVER_SOURCE, [], capability)
