"""Hand the low plane of the token that leaves a session's newest ones to the session's new token."""

# ruff: noqa: PLR0917
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
# Kernels are Triton's language: their arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["req_rows", "positions", "loc"])  # slices, at any offset
def pass_low_kernel(low_of, table, req_rows, positions, loc, policy, row_stride, sinks, recent):
    """One request a program; ``reference.pass_low`` says what for.

    Two requests that share a prefix can leave the same token at once: the exchange gives its low plane to one of them.
    """
    request = tl.program_id(0)
    row = tl.load(req_rows + request).to(tl.int64)
    position = tl.load(positions + request)
    if (tl.load(policy + row) == 4) & (position >= sinks + recent):
        old = tl.load(table + row * row_stride + position - recent).to(tl.int64)
        low = tl.atomic_xchg(low_of + old, -1)
        tl.store(low_of + tl.load(loc + request), low)
