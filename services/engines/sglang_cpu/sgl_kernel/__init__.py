"""A stand-in for SGLang's compiled kernel library on a machine with no GPU.

SGLang 0.5.17 imports ``sgl_kernel`` at start, and the wheel it installs holds CUDA binaries that do not load
without a driver. Put the folder above this package first on PYTHONPATH and SGLang serves on the CPU with its
torch implementations. One function is really called; every other name exists so that imports succeed, and
raises ``NotImplementedError`` when it is used. Pinned memory, which SGLang's LoRA asks for and torch refuses where
there is no driver, is ordinary memory here: there is no device to copy it to.
"""

from __future__ import annotations

from functools import wraps
from typing import Any, NoReturn

import torch

__version__ = "0.4.5"


def assign_req_to_token_pool_cpu(  # noqa: PLR0917 - SGLang calls it by position
    req_pool_indices: Any, req_to_token: Any, start_offset: Any, end_offset: Any, out_cache_loc: Any, width: int
) -> None:
    """Write freshly allocated slots into the request table, as SGLang's C++ kernel does.

    Row ``req_pool_indices[i]`` of ``req_to_token`` (int32, ``width`` columns) takes the next
    ``end_offset[i] - start_offset[i]`` entries of ``out_cache_loc`` at columns ``[start, end)``.
    """
    if req_to_token.shape[1] != width:
        raise ValueError(f"req_to_token has {req_to_token.shape[1]} columns, not {width}")
    taken = 0
    rows = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for row, start, end in rows:
        count = end - start
        req_to_token[row, start:end] = out_cache_loc[taken : taken + count].to(req_to_token.dtype)
        taken += count


def _unpinned(make: Any) -> Any:
    @wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        options.pop("pin_memory", None)
        return make(*args, **options)

    return made


if not torch.cuda.is_available():
    torch.Tensor.pin_memory = lambda tensor, *_args: tensor
    for _name in ("empty", "ones", "tensor", "zeros"):
        setattr(torch, _name, _unpinned(getattr(torch, _name)))


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: object, **_kwargs: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} needs a GPU build of SGLang's kernels")

    missing.__name__ = name
    return missing
