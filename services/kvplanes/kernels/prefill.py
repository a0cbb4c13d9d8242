"""Prefill with FlashInfer's dense kernels: FlashAttention-3 on Hopper, FlashAttention-2 on other GPUs."""

from __future__ import annotations

import logging
from itertools import accumulate, pairwise
from typing import Any

import torch

LOGGER = logging.getLogger(__name__)
WORKSPACE_BYTES = 128 << 20
GATHERED_BYTES_MAX = 512 << 20  # keys and values of one layer that are read back at once


class DensePrefill:
    """Causal attention of new tokens over all keys and values of their requests, one request's rows after another's.

    After ``plan``, `starts` and `kv_starts` (requests + 1) int32 on the device say where each request's new tokens and
    all of its tokens begin, `kv_tokens` how many there are in all, and `kv_max` the most of one request.
    """

    def __init__(self, query_heads: int, kv_heads: int, dim: int, dtype: torch.dtype, device: str) -> None:
        """Load FlashInfer's kernels, which it compiles where it never did so for this shape and GPU.

        Raises ImportError without FlashInfer, and what its compiler raises.
        """
        from flashinfer import BatchPrefillWithRaggedKVCacheWrapper  # noqa: PLC0415 - absent beside the host

        self.query_heads, self.kv_heads, self.dim, self.dtype = query_heads, kv_heads, dim, dtype
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self.wrapper: Any = BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
        self.device = device
        self.starts = self.kv_starts = torch.zeros(2, dtype=torch.int32, device=device)
        self.kv_tokens = self.kv_max = 0
        self.plan([0], [16])
        query, key = (torch.zeros(16, heads, dim, dtype=dtype, device=device) for heads in (query_heads, kv_heads))
        self.run(query, key, key, dim**-0.5)

    def fits(self, prefixes: list[int], counts: list[int]) -> bool:
        """Whether the keys and values of such requests may be read back at once; without prefixes nothing is."""
        row_bytes = 2 * self.kv_heads * self.dim * self.dtype.itemsize
        return not any(prefixes) or (sum(prefixes) + sum(counts)) * row_bytes <= GATHERED_BYTES_MAX

    def plan(self, prefixes: list[int], counts: list[int]) -> None:
        """Prepare a pass: request r has prefixes[r] cached tokens and counts[r] new ones."""
        lengths = [prefix + count for prefix, count in zip(prefixes, counts, strict=True)]
        starts, kv_starts = [0, *accumulate(counts)], [0, *accumulate(lengths)]
        self.kv_tokens, self.kv_max = kv_starts[-1], max(end - start for start, end in pairwise(kv_starts))
        on_host = torch.tensor([starts, kv_starts], dtype=torch.int32)
        self.starts, self.kv_starts = on_host.to(self.device)
        self.wrapper.plan(
            on_host[0],
            on_host[1],
            self.query_heads,
            self.kv_heads,
            self.dim,
            causal=True,
            q_data_type=self.dtype,
            disable_split_kv=True,
        )

    def run(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        """`query` (new tokens, Hq, D) over `key` and `value` (all tokens, H, D), any row strides; (tokens, Hq, D)."""
        out: torch.Tensor = self.wrapper.forward(query, key, value, causal=True, sm_scale=scale)
        return out


def dense_prefill(query_heads: int, kv_heads: int, dim: int, dtype: torch.dtype, device: str) -> DensePrefill | None:
    """``DensePrefill``, or None, with the reason in the log, where FlashInfer is missing or does not compile."""
    try:
        return DensePrefill(query_heads, kv_heads, dim, dtype, device)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        LOGGER.warning("kvplanes prefills with Triton: FlashInfer says %s: %s", type(error).__name__, error)
        return None
