"""Trade presets: precision follows what a mistake costs in the customer's trade (the article's A12).

    medical        `auto` with floor 8    dosages and findings
    finance        `auto` with floor 8    sums
    manufacturing  `fixed` at 4           quality checks, fast and many
    retail         `auto`

Inputs and direction of failure are those of the policy behind the name. Defaults as above; options override them
(`medical` with `ceiling=16`). A preset's floor cannot be lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.kv_policies import Policy
from gateway.kv_policies.auto import Auto
from gateway.kv_policies.fixed import Fixed
from services.contracts.chats import KvBits


def _careful(floor: int = KvBits.EIGHT, ceiling: int = KvBits.EIGHT) -> Policy:
    if floor < KvBits.EIGHT:
        raise ValueError(f"floor must be at least 8 in this trade, not {floor}")
    return Auto(floor, max(floor, ceiling))


def _fast(bits: int = KvBits.FOUR) -> Policy:
    return Fixed(bits)


TRADES: Mapping[str, Callable[..., Policy]] = {
    "medical": _careful,
    "finance": _careful,
    "manufacturing": _fast,
    "retail": Auto,
}
