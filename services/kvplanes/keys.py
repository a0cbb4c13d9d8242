"""The precision a request asks for, as it travels in SGLang's ``extra_key``. No torch here.

SGLang's radix cache shares a prefix only between requests with the same ``extra_key``, so one string keeps both
tenants and precisions apart: ``<salt>|kv<bits>|``. SGLang appends a LoRA id, which may begin with a digit, to the key;
what follows the bits' own ``|`` is ignored here.
"""

from __future__ import annotations

import re

from .layout import BITS

_KEY = re.compile(r"^(?P<salt>[^|]*)\|kv(?P<bits>[^|]*)")
_NAMES = {str(bits): bits for bits in BITS}


def extra_key(salt: str, bits: int) -> str:
    """The ``extra_key`` of a request of the tenant behind `salt`, cached at `bits` (4 or 8).

    Raises ValueError for other bits, or a salt with a ``|`` in it.
    """
    if bits not in BITS:
        raise ValueError(f"KV bits must be one of {BITS}, not {bits}")
    if "|" in salt:
        raise ValueError("a cache salt holds no '|'")
    return f"{salt}|kv{bits}|"


def parse_extra_key(key: str | None, default_bits: int) -> tuple[str, int]:
    """Salt and bits of a request's ``extra_key``; `default_bits` and the whole key where it names none.

    Raises ValueError where it names bits that the planes do not hold.
    """
    match = _KEY.match(key or "")
    if match is None:
        return key or "", default_bits
    if match["bits"] not in _NAMES:
        raise ValueError(f"extra_key asks for {match['bits']} KV bits; kvplanes holds {BITS}, between '|kv' and '|'")
    return match["salt"], _NAMES[match["bits"]]
