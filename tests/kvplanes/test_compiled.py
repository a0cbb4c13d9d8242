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

KERNELS = ("plan_kernel", "store_kernel", "decode_kernel", "combine_kernel", "extend_kernel", "pass_low_kernel")
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
@pytest.mark.parametrize("capability", ["80", "90"])  # Ampere and Hopper: other matrix instructions
def test_every_kernel_becomes_machine_code(capability: str) -> None:
    registers = said("-m", "tests.kvplanes.compiling", capability)[capability]
    assert {name.split()[0] for name in registers} == set(KERNELS)
    assert all(0 < count <= 255 for count in registers.values())
    decode = {name.split()[1]: count for name, count in registers.items() if name.startswith("decode")}
    assert decode["128"] <= 128, "with more, no four programs fit a multiprocessor"
