"""Bounds of numbers, as grammars get them: they never let through what the schema forbids."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.number_bounds import BrokenBound, number_bounds

CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"minimum": 0.5}, {"minimum": 0.5}),
    ({"minimum": 0, "exclusiveMinimum": 0, "maximum": 2.5}, {"exclusiveMinimum": 0, "maximum": 2.5}),
    ({"minimum": 0.5, "exclusiveMinimum": 0.25, "maximum": 9.0}, {"minimum": 0.5, "maximum": 9}),
    # zero would come through these
    ({"exclusiveMinimum": 0, "maximum": 1}, {"minimum": 1e-9, "maximum": 1}),
    ({"exclusiveMinimum": -0.0, "exclusiveMaximum": 1e-12}, {"minimum": 5e-13, "exclusiveMaximum": 1e-12}),
    ({"minimum": -1, "exclusiveMaximum": 0}, {"minimum": -1, "maximum": -1e-9}),
    # far bounds are drawn in, to floats that do not lie outside
    ({"minimum": -1e300, "maximum": 10**18}, {"minimum": -(10**18), "maximum": 10**18}),
    ({"maximum": 2**53 + 3}, {"maximum": 2**53 + 2}),
    ({"minimum": 2**53 + 1}, {"minimum": 2**53 + 2}),
    ({"multipleOf": 0.01, "minimum": 0}, {"multipleOf": 0.01, "minimum": 0}),
    ({"multipleOf": 0.07, "minimum": 0}, {"minimum": 0}),
    ({"multipleOf": 5, "minimum": 10, "maximum": 10}, {"multipleOf": 5, "minimum": 10, "maximum": 10}),
    ({"minimum": 3, "maximum": 2}, {}),
]
WHOLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"exclusiveMinimum": 1, "maximum": 3.5}, {"minimum": 2, "maximum": 3}),
    ({"minimum": 0.5, "exclusiveMaximum": 3.5}, {"minimum": 1, "maximum": 3}),
    ({"multipleOf": 2.5}, {"multipleOf": 5}),
    ({"multipleOf": 0.5}, {}),
    ({"minimum": 0, "maximum": 2**63 - 1}, {"minimum": 0, "maximum": 10**18}),
    ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, {}),
]


@pytest.mark.parametrize(
    ("whole", "given", "found"), [(False, *case) for case in CASES] + [(True, *case) for case in WHOLE]
)
def test_bounds_in_the_grammars_form(whole: bool, given: dict[str, Any], found: dict[str, Any]) -> None:
    assert number_bounds(given, whole, lambda keyword, why: None) == found


@pytest.mark.parametrize("bound", ["1", True, float("inf"), float("nan"), []])
def test_a_bound_that_is_not_a_number(bound: object) -> None:
    for keyword in ("minimum", "exclusiveMaximum", "multipleOf"):
        with pytest.raises(BrokenBound) as caught:
            number_bounds({keyword: bound}, False, lambda keyword, why: None)
        assert caught.value.keyword == keyword
