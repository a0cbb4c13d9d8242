"""Compile every kernel for GPUs that need not be there, as ``services.kvplanes.kernels.launch`` would launch them.

``python -m tests.kvplanes.compiling CAPABILITY ...`` prints one JSON object: capability, kernel, registers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.compiler import compile as compile_kernel
from triton.runtime.jit import JITFunction, create_function_from_signature

from services.kvplanes.kernels import launch
from services.kvplanes.layout import PlaneShape
from services.kvplanes.planes import Planes


class Launches:
    """Takes a kernel's place in ``launch``: notes each call and launches nothing."""

    def __init__(self, kernel: JITFunction[Any], made: list[tuple[JITFunction[Any], Any, Any]]) -> None:
        self.kernel, self.made = kernel, made

    def __getitem__(self, _grid: object) -> Any:
        return lambda *arguments, **options: self.made.append((self.kernel, arguments, options))


def launches(dim: int, heads: int, group: int) -> Iterator[tuple[JITFunction[Any], Any, Any]]:
    """The kernels that a model with heads of `dim` channels launches, with arguments and options."""
    made: list[tuple[JITFunction[Any], Any, Any]] = []
    names = ("plan_kernel", "store_kernel", "decode_kernel", "combine_kernel", "extend_kernel", "gather_kernel")
    for name in (*names, "pass_low_kernel"):
        kernel = getattr(launch, name)
        setattr(launch, name, Launches(kernel.kernel if isinstance(kernel, Launches) else kernel, made))
    planes = Planes(PlaneShape(1, heads, dim), 256, "cpu")
    layer, table = planes.layer(0), torch.zeros(4, 128, dtype=torch.int32)
    bits = torch.full((4,), 4, dtype=torch.int32)
    launch.warm(layer, table, bits, torch.bfloat16, heads * group, (4, 32))
    tuning, lengths = launch.tuning_for(dim)._replace(asm=True), torch.full((2,), 100)
    plan = launch.DecodePlan.allocate(2, heads * group, heads, dim, "cpu", tuning)
    plan.fill(lengths, lengths * 0, bits, tuning)
    query, out = torch.zeros(2, heads * group, dim).half(), torch.zeros(2, heads * group * dim).bfloat16()
    launch.decode(layer, query, table, 0.1, plan=plan, windows=(4, 32), out=out, tuning=tuning)
    yield from made


def registers(kernel: JITFunction[Any], arguments: Any, options: Any, capability: int) -> int:
    """Registers a thread of `kernel`, compiled to machine code for `capability` (90: Hopper).

    Raises what Triton raises where it does not compile.
    """
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    settings = {name: value for name, value in options.items() if name in ("num_warps", "maxnreg")}
    constants = {name: value for name, value in options.items() if name not in settings}
    if "ASM" in kernel.arg_names:
        constants["ASM"] = True
    bound, specialization, _ = binder(*arguments, **constants)
    names = list(bound)
    signature = {name: kind for name, (kind, _) in zip(names, specialization, strict=True)}
    fixed = {(names.index(name),): bound[name] for name, kind in signature.items() if kind == "constexpr"}
    hints = {
        (index,): backend.parse_attr(hint)
        for index, (kind, hint) in enumerate(specialization)
        if hint and kind != "constexpr"
    }
    source = ASTSource(kernel, signature, fixed, hints)
    compiled = compile_kernel(source, target=target, options={key: value for key, value in settings.items() if value})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+)", said.stdout)
    return int(found.group(1)) if found else -1


def main() -> None:
    """Every kernel, for heads of 64, 128 and 256 channels, on every GPU named."""
    figures: dict[str, dict[str, int]] = {}
    for capability in map(int, sys.argv[1:]):
        found = figures[str(capability)] = {}
        for dim, heads, group in ((64, 3, 3), (128, 4, 7), (256, 2, 4)):
            for number, (kernel, arguments, options) in enumerate(launches(dim, heads, group)):
                name = f"{kernel.__name__} {dim} {number}"
                found[name] = registers(kernel, arguments, options, capability)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
