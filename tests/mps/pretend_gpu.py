"""Makes this process take llama.cpp's engines for programs of a GPU. `stand_in.install` has every process call it."""

from __future__ import annotations

import sys
from functools import partial


def pretend() -> None:
    from services.contracts import engine_kinds
    from services.contracts.devices import gpu
    from services.contracts.engines import EngineFacts

    kind = engine_kinds.LLAMACPP
    object.__setattr__(kind, "overhead", {"cuda": next(iter(kind.overhead.values()))})
    object.__setattr__(kind, "kv_bits_default", {"cuda": 8})
    if "services.worker" in sys.orig_argv:
        from services.engines import llamacpp

        vars(llamacpp)["EngineFacts"] = partial(EngineFacts, device=gpu(0))
