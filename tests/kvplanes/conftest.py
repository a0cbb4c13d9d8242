"""Kernels run on the GPU where there is one, else in Triton's interpreter, which must be chosen before Triton loads."""

from __future__ import annotations

import importlib.util
import os

if importlib.util.find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
