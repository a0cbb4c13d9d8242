"""Bounds of numbers in JSON schemas, in forms that both engines' grammars hold exactly.

Both compile schemas with llguidance, which reads bounds as 64-bit floats and takes none above 10**18. A bound beyond
that is drawn in where this only narrows, and is not supported where no answer could keep it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

MAGNITUDE_MAX = 10**18
STEPS_MAX = 10_000  # all multiples, in units of their last decimals: the grammar has so many states
_LEAST = Fraction(1, 10**9)  # above an exclusive zero
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")

Unsupported = Callable[[str, str], None]  # of a keyword, and why; raises where the schema is strict


class BrokenBound(ValueError):
    """What no schema may say of `keyword`."""

    def __init__(self, keyword: str, why: str) -> None:
        super().__init__(why)
        self.keyword = keyword


@dataclass(frozen=True, slots=True)
class _Bound:
    """One end of a range; `keyword` said so."""

    keyword: str
    value: Fraction
    exclusive: bool


def number_bounds(
    schema: Mapping[str, object], whole: bool, unsupported: Unsupported, steps_max: int = STEPS_MAX
) -> Mapping[str, int | float]:
    """Keywords for one number, or for an integer if `whole`. What `unsupported` is called with is left out.

    `steps_max`: of a multiple. Raises BrokenBound.
    """
    found = [_bound(schema, keyword) for keyword in _BOUNDS]
    low = max((each for each in found[:2] if each), key=lambda each: (each.value, each.exclusive), default=None)
    high = min((each for each in found[2:] if each), key=lambda each: (each.value, not each.exclusive), default=None)
    if whole:
        low, high = low and _whole(low, 1), high and _whole(high, -1)
    step = _step(schema, whole, unsupported, steps_max)
    for end, beyond in ((low, low and low.value > MAGNITUDE_MAX), (high, high and high.value < -MAGNITUDE_MAX)):
        if end is not None and beyond:
            unsupported(end.keyword, f"numbers beyond {MAGNITUDE_MAX} are not supported")
            return {}
    if low and high and not _meet(low, high, step):
        unsupported(high.keyword, "no number keeps this and the other bounds")
        return {}
    return _keywords(low, high) | ({} if step is None else {"multipleOf": _number(step)})


def _bound(schema: Mapping[str, object], keyword: str) -> _Bound | None:
    value = schema.get(keyword)
    return None if value is None else _Bound(keyword, _exact(keyword, value), keyword.startswith("exclusive"))


def _exact(keyword: str, value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise BrokenBound(keyword, "not a number")
    return Fraction(repr(value))


def _whole(bound: _Bound, inwards: int) -> _Bound:
    """The last integer that a bound allows."""
    value = math.ceil(bound.value) if inwards > 0 else math.floor(bound.value)
    return _Bound(bound.keyword, Fraction(value + inwards * (bound.exclusive and value == bound.value)), False)


def steps_of(multiple: float) -> int | None:
    """The number without its point, as llguidance finds it: by floats, so 0.07 becomes 7000000000000001.

    None: that is another number.
    """
    value, places = float(multiple), 0
    while not value.is_integer() and value < 2**32:
        value, places = value * 10, places + 1
    return int(value) if Fraction(int(value), 10**places) == Fraction(repr(multiple)) else None


def _step(schema: Mapping[str, object], whole: bool, unsupported: Unsupported, steps_max: int) -> Fraction | None:
    """What an answer is a multiple of. None: of anything."""
    if (value := schema.get("multipleOf")) is None:
        return None
    exact = _exact("multipleOf", value)
    if exact <= 0:
        raise BrokenBound("multipleOf", "not above 0")
    if whole:  # an integer is a multiple of p/q, in lowest terms, if it is one of p
        exact = Fraction(exact.numerator)
        if exact == 1:
            return None
    steps = steps_of(_number(exact)) if exact <= STEPS_MAX else STEPS_MAX + 1
    if steps is None:
        unsupported("multipleOf", f"floating-point numbers do not hold {value} exactly enough")
    elif steps > steps_max:
        unsupported("multipleOf", f"multiples without their points add up to more than {STEPS_MAX}")
    else:
        return exact
    return None


def _meet(low: _Bound, high: _Bound, step: Fraction | None) -> bool:
    """Whether a number is within them."""
    if step is None:
        return low.value < high.value or (low.value == high.value and not (low.exclusive or high.exclusive))
    least = math.ceil(low.value / step) * step
    if least == low.value and low.exclusive:
        least += step
    return least < high.value or (least == high.value and not high.exclusive)


def _keywords(low: _Bound | None, high: _Bound | None) -> dict[str, int | float]:
    """A grammar with an exclusive 0 and nothing above 1 lets 0 through, so the next number stands for it."""
    below, above = high.value if high else None, low.value if low else None
    if low and low.exclusive and low.value == 0 and below is not None and below <= 1:
        low = _Bound("minimum", min(_LEAST, below / 2), False)
    if high and high.exclusive and high.value == 0 and above is not None and above >= -1:
        high = _Bound("maximum", max(-_LEAST, above / 2), False)
    found = {}
    if low:
        found["exclusiveMinimum" if low.exclusive else "minimum"] = _number(max(low.value, Fraction(-MAGNITUDE_MAX)), 1)
    if high:
        found["exclusiveMaximum" if high.exclusive else "maximum"] = _number(
            min(high.value, Fraction(MAGNITUDE_MAX)), -1
        )
    return found


def _number(value: Fraction, inwards: int = 0) -> int | float:
    """As a grammar reads it: a large one is the next inner float."""
    near = float(value)
    if not near.is_integer():
        return near
    if inwards and (Fraction(near) - value) * inwards < 0:
        near = math.nextafter(near, inwards * math.inf)
    return int(near)
